"""Remarks on configurations whose values do not go together."""

from __future__ import annotations

from typing import Any

import pytest

from llenergymeasure.config import ExperimentConfig
from llenergymeasure.config.findings import find


def remarks(**values: Any) -> set[tuple[str, str]]:
    config = ExperimentConfig.model_validate({"config_name": "a", "model_name": "m", "random_seed": 0} | values)
    return {(finding.severity, finding.key) for finding in find(config)}


def test_the_defaults_are_without_remark() -> None:
    assert remarks() == set()


@pytest.mark.parametrize(
    ("values", "remark"),
    [
        ({"min_output_tokens": 200}, ("error", "min_output_tokens")),
        ({"vllm": {"a": 1}}, ("error", "vllm")),
        ({"backend": "vllm", "pytorch": {}}, ("error", "pytorch")),
        ({"backend": "tensorrt", "fp_precision": "float32"}, ("error", "fp_precision")),
        ({"parallelism": {"strategy": "pipeline_parallel", "degree": 2}}, ("error", "parallelism.strategy")),
        ({"parallelism": {"degree": 2}}, ("error", "parallelism.degree")),
        ({"quantization": {"load_in_4bit": True, "load_in_8bit": True}}, ("error", "quantization")),
        ({"backend": "vllm", "quantization": {"load_in_4bit": True}}, ("error", "quantization")),
        (
            {"quantization": {"quantization": False, "load_in_4bit": True}},
            ("warning", "quantization.quantization"),
        ),
        ({"batching": {"strategy": "static", "dynamic_batching": True}}, ("error", "batching.strategy")),
        ({"batching": {"max_tokens_per_batch": 100}}, ("warning", "batching.max_tokens_per_batch")),
        ({"decoder": {"temperature": 0, "do_sample": True}}, ("info", "decoder.do_sample")),
        ({"random_seed": None}, ("info", "random_seed")),
        ({"streaming": True, "decoder": {"beam_search": {"num_beams": 2}}}, ("error", "streaming")),
        ({"gpus": [1, 1]}, ("error", "gpus")),
        ({"gpus": []}, ("error", "gpus")),
        ({"warmup": {"min": 9, "max": 3}}, ("error", "warmup.min")),
        ({"dataset": {"name": "x"}, "prompts": {"type": "file", "path": "p"}}, ("warning", "prompts")),
        ({"timeseries": {"save": True}}, ("warning", "timeseries.save")),
        ({"schedule": {"enabled": True}}, ("error", "schedule")),
    ],
)
def test_what_does_not_go_together_is_said(values: dict[str, Any], remark: tuple[str, str]) -> None:
    assert remark in remarks(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"backend": "vllm", "vllm": {"a": 1}},
        {"backend": "tensorrt", "fp_precision": "float16"},
        {"backend": "vllm", "parallelism": {"strategy": "pipeline_parallel", "degree": 2}},
        {"decoder": {"temperature": 0}, "random_seed": None},
        {"warmup": {"max": 0}},
        {"schedule": {"enabled": True, "interval": "6h"}},
    ],
)
def test_what_goes_together_is_not_remarked_on(values: dict[str, Any]) -> None:
    assert remarks(**values) == set()


def test_processes_need_as_many_gpus_where_there_are_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llenergymeasure.config.findings.visible_gpus", lambda: 2)
    assert ("error", "num_processes") in remarks(num_processes=2)
    assert remarks(num_processes=2, gpus=[0, 1]) == set()
    monkeypatch.setattr("llenergymeasure.config.findings.visible_gpus", lambda: 0)
    assert remarks(num_processes=2) == set()


def test_errors_come_first() -> None:
    config = ExperimentConfig(config_name="a", model_name="m", min_output_tokens=999, timeseries={"save": True})  # type: ignore[arg-type]
    assert [finding.severity for finding in find(config)] == ["error", "warning", "info"]
    assert str(find(config)[0]) == "min_output_tokens: 999 is more than max_output_tokens 128; lower it"
