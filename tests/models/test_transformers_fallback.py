"""Models the engine has no layers for: transformers runs them, says so, and refuses by name what it can't honour."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from medvllm.errors import MedvllmError
from medvllm.models import transformers_fallback
from medvllm.models.configuration import load_config
from medvllm.models.files import resolve_model
from medvllm.models.runners import runner_for
from medvllm.models.transformers_fallback import PagedModel, SequenceModel, refuse_options


def load(folder: Any) -> Any:
    files = resolve_model(str(folder))
    config = load_config(files)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return transformers_fallback.load(config, files, dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize(("name", "kind"), [("opt", PagedModel), ("mixtral", PagedModel), ("bloom", SequenceModel)])
def test_attention_is_the_engines_where_that_leaves_the_logits_as_they_are(
    name: str, kind: type, tiny: Callable[..., Any], logits_of: Callable[..., torch.Tensor]
) -> None:
    model = tiny(name)
    mine = load(model.folder)
    assert isinstance(mine, kind)
    ids = [1, 17, 5, 80, 33, 96, 2, 41]
    torch.testing.assert_close(logits_of(mine, ids), model.logits(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"hidden_act": "quick_gelu"}, "the activation quick_gelu"),
        (
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "short_factor": [1.0] * 4,
                    "long_factor": [1.5] * 4,
                    "original_max_position_embeddings": 64,
                }
            },
            "rotary scaling of kind longrope",
        ),
    ],
)
def test_an_own_architecture_with_what_our_layers_do_not_do(
    fields: dict[str, Any], reason: str, tiny: Callable[..., Any]
) -> None:
    folder = tiny("llama", **fields).folder
    assert runner_for(load_config(resolve_model(str(folder)))) == (
        "transformers",
        f"LlamaForCausalLM: {reason}",
    )


def test_missing_weights_are_refused_not_made_up(tiny: Callable[..., Any]) -> None:
    folder = tiny("opt").folder
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.decoder.layers.1.fc1.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MedvllmError, match=r"lacks model.decoder.layers.1.fc1.weight"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [("quantization", "int8"), ("compile_mode", "default"), ("tensor_parallel_size", 2), ("deterministic", True)],
)
def test_options_that_can_not_be_honoured(name: str, value: Any) -> None:
    none: dict[str, Any] = {
        "quantization": None,
        "compile_mode": None,
        "tensor_parallel_size": 1,
        "deterministic": False,
    }
    refuse_options(**none)
    with pytest.raises(MedvllmError, match=f"{name} is not possible for this architecture"):
        refuse_options(**(none | {name: value}))
