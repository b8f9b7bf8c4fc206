"""Models and engines that are not there: one line at once, with the remedy."""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path

import pytest

from llenergymeasure.backends import NAMES, get_backend, require
from llenergymeasure.backends.base import Phase, merged, request_phases
from llenergymeasure.backends.gpus import only_gpus, process_gpus
from llenergymeasure.backends.model_files import resolve_folder
from llenergymeasure.config import ExperimentConfig
from llenergymeasure.errors import LemError, LemUsageError


@pytest.mark.parametrize(("name", "library"), [("vllm", "vllm"), ("tensorrt", "tensorrt_llm")])
def test_an_engine_that_is_not_installed_names_its_extra(name: str, library: str) -> None:
    if importlib.util.find_spec(library) is not None:
        pytest.skip(f"{library} is installed")
    with pytest.raises(LemError, match=rf"{library} is not installed; pip install 'medvllm\[{name}\]'"):
        get_backend(name)


def test_an_unknown_backend_lists_the_known() -> None:
    with pytest.raises(LemUsageError, match=", ".join(NAMES)):
        require("llama.cpp")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("meta-llama/Llama-2-7b-hf", "hf download meta-llama/Llama-2-7b-hf"),
        ("/nowhere/model", "there is no folder '/nowhere/model'"),
        ("./nowhere", "there is no folder './nowhere'"),
        ("a b c", "can't be a hub id"),
    ],
)
def test_a_missing_model_is_told_at_once_without_network(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    began = time.monotonic()
    with pytest.raises(LemError) as error:
        resolve_folder(name)
    assert said in str(error.value)
    assert time.monotonic() - began < 2


def test_weights_are_safetensors_and_complete(tmp_path: Path) -> None:
    with pytest.raises(LemError, match=r"no config\.json"):
        resolve_folder(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(LemError, match=r"expected model\.safetensors"):
        resolve_folder(str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(LemError, match="pickle"):
        resolve_folder(str(tmp_path))
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "one.safetensors"}}')
    with pytest.raises(LemError, match=r"first one\.safetensors"):
        resolve_folder(str(tmp_path))
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../one.safetensors"}}')
    with pytest.raises(LemError, match="beside it"):
        resolve_folder(str(tmp_path))


def test_phases_of_overlapping_requests() -> None:
    # The second waits for its first token while the first decodes: that stretch is prefill. Then nothing runs.
    spans = [(0.0, 1.0, 5.0), (2.0, 3.0, 6.0), (8.0, 9.0, 9.5)]
    assert request_phases(spans) == (
        Phase("prefill", 0.0, 1.0),
        Phase("decode", 1.0, 2.0),
        Phase("prefill", 2.0, 3.0),
        Phase("decode", 3.0, 6.0),
        Phase("prefill", 8.0, 9.0),
        Phase("decode", 9.0, 9.5),
    )
    assert merged([Phase("decode", 0, 1), Phase("decode", 1, 2), Phase("decode", 3, 4)]) == (
        Phase("decode", 0, 2),
        Phase("decode", 3, 4),
    )


def test_an_engine_sees_only_the_gpus_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ExperimentConfig.model_validate({"config_name": "t", "model_name": "m", "gpus": [0, 1, 2]})
    assert process_gpus(config, process_index=1, num_processes=2) == [1]
    assert process_gpus(config, process_index=0, num_processes=2) == [0, 2]
    with pytest.raises(LemError, match=r"4 processes need as many GPUs, got gpus \[0, 1, 2\]"):
        process_gpus(config, process_index=0, num_processes=4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-abc,7")
    with only_gpus([1, 2]):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-abc,7"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,GPU-abc,7"
    with pytest.raises(LemError, match="gpus names 3, but 3 are visible"), only_gpus([3]):
        pass
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with only_gpus([2]):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
