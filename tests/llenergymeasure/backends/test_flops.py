"""FLOPs by formula against PyTorch's own counter of the operations that ran, and its parts by hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llenergymeasure.backends.flops import read_architecture, request_flops
from llenergymeasure.errors import LemError


def test_formula_counts_what_ran(tiny_model: Path) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, attn_implementation="eager").eval()
    read, written = 40, 20
    ids = torch.arange(read)[None]
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.generate(ids, max_new_tokens=written, min_new_tokens=written, do_sample=False, pad_token_id=0)
    formula = request_flops(read_architecture(tiny_model), read, written)
    assert formula is not None
    # The kernel computes the masked half of the prompt's attention too, and the tables of the rotary embedding.
    masked = 4 * 2 * 64 * (read * (read - 1) // 2)
    assert formula + masked == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_tied_and_untied_output_projections_cost_the_same(tmp_path: Path, save_tiny: Callable[..., Path]) -> None:
    tied = read_architecture(save_tiny(tmp_path / "tied", tie_word_embeddings=True))
    untied = read_architecture(save_tiny(tmp_path / "untied", tie_word_embeddings=False))
    assert tied.parameters is not None
    assert untied.parameters == tied.parameters + 260 * 64
    assert request_flops(tied, 10, 5) == request_flops(untied, 10, 5)
    assert tied.confidence == untied.confidence == "high"


def test_a_sliding_window_bounds_the_context(tiny_model: Path) -> None:
    whole = dataclasses.replace(read_architecture(tiny_model), body_parameters=1, head_parameters=1)
    sliding = dataclasses.replace(whole, sliding_window=8)
    attended = sum(min(place + 1, 8) for place in range(29))  # 20 + 10 - 1 tokens go through
    assert request_flops(sliding, 20, 10) == 2 * 29 + 2 * 10 + 4 * 2 * 4 * 16 * attended
    short = request_flops(whole, 5, 3)
    assert request_flops(sliding, 5, 3) == short


def test_of_experts_the_active_are_counted(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    body = {f"model.layers.0.mlp.experts.{i}.up_proj.weight": torch.zeros(32, 16) for i in range(8)}
    body |= {"model.layers.0.self_attn.q_proj.weight": torch.zeros(16, 16)}
    save_file(body | {"model.embed_tokens.weight": torch.zeros(100, 16)}, tmp_path / "model.safetensors")
    config = {"num_attention_heads": 2, "hidden_size": 16, "num_hidden_layers": 1, "num_experts": 8}
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_experts_per_tok": 2}))
    found = read_architecture(tmp_path)
    assert found.body_parameters == 2 * 32 * 16 + 16 * 16
    assert (found.confidence, found.note) == ("medium", "2 of 8 experts are active")
    (tmp_path / "config.json").write_text(json.dumps(config))
    unknown = read_architecture(tmp_path)
    assert unknown.body_parameters == 8 * 32 * 16 + 16 * 16
    assert unknown.confidence == "low"


def test_an_unknown_architecture_has_no_figure(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"something.weight": torch.zeros(4, 4)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    found = read_architecture(tmp_path)
    assert found.confidence == "low"
    assert request_flops(found, 10, 10) is None


@pytest.mark.parametrize("header", [b"[1]", b'{"a": 3}', b'{"a": {}}', b"{"])
def test_a_damaged_header_is_one_line(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(LemError, match="is no safetensors file"):
        read_architecture(tmp_path)
