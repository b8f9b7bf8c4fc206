"""Floating-point operations by formula, from config.json and the shapes in the safetensors headers; no torch.

A token through the model's body costs 2 per weight that multiplies it (Kaplan et al. 2020, arXiv 2001.08361), plus
4·layers·heads·head_dim for each position it attends to. The output projection runs for tokens that are sampled from
only. Padding is not counted: it is no useful work.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llenergymeasure.backends.model_files import read_json, weight_files
from llenergymeasure.errors import LemError

__all__ = ["METHOD", "Architecture", "read_architecture", "request_flops"]

METHOD = (
    "formula: 2 x weights per token (output projection for sampled positions only) "
    "+ 4 x layers x heads x head_dim x context; padding not counted"
)
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "embeddings.weight")
_POSITIONS = ("wpe.weight", "embed_positions.weight", "position_embeddings.weight")
_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
# Not models whose layers attend to all positions before: their formula is another.
_RECURRENT = ("mamba", "mamba2", "rwkv", "falcon_mamba", "recurrent_gemma", "jamba", "zamba2", "bamba")


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the formula needs of a model."""

    parameters: int | None  # all of them
    body_parameters: int | None  # that multiply a token on its way: of experts those that are active
    head_parameters: int | None  # of the output projection
    layers: int | None
    hidden_size: int | None
    num_heads: int | None
    head_dim: int | None
    sliding_window: int | None
    context: int | None  # positions the model was made for
    confidence: Literal["high", "medium", "low"]
    note: str

    @property
    def method(self) -> str:
        """The formula, and what of it is doubtful here."""
        return f"{METHOD}; {self.note}" if self.note else METHOD


def read_architecture(folder: Path) -> Architecture:
    """The architecture of a model's folder.

    Raises:
        LemError: config.json or a header can't be read.
    """
    config = read_json(folder / "config.json") or {}
    text = config.get("text_config")
    config = {**config, **text} if isinstance(text, dict) else config
    shapes = dict(_tensor_shapes(weight_files(folder)))
    heads = _first(config, "num_attention_heads", "n_head", "num_heads", "n_heads")
    hidden = _first(config, "hidden_size", "n_embd", "d_model")
    head_dim = _first(config, "head_dim") or (hidden // heads if hidden and heads else None)
    share, expert_note = _active_share(config)
    body, head, counted = _multiplying(shapes, config, active_share=share)
    confidence, note = _trust(config, expert_note, complete=counted and None not in (heads, head_dim))
    window = _first(config, "sliding_window") if config.get("use_sliding_window", True) else None
    return Architecture(
        parameters=sum(math.prod(shape) for shape in shapes.values()) or None,
        body_parameters=body,
        head_parameters=head,
        layers=_first(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers"),
        hidden_size=hidden,
        num_heads=heads,
        head_dim=head_dim,
        sliding_window=window if window and _all_layers_slide(config) else None,
        context=_first(config, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
        confidence=confidence,
        note=note,
    )


def request_flops(architecture: Architecture, input_tokens: int, output_tokens: int) -> float | None:
    """Operations of one request, forward passes only; None where the architecture does not say enough.

    The last token generated is not fed back, so input + output - 1 tokens go through the body.
    """
    a = architecture
    if a.body_parameters is None or a.head_parameters is None or not (a.layers and a.num_heads and a.head_dim):
        return None
    fed = input_tokens + max(output_tokens - 1, 0)
    window = min(a.sliding_window or fed, fed)
    attended = window * (window + 1) // 2 + (fed - window) * window  # positions, summed over tokens
    dense = 2.0 * a.body_parameters * fed + 2.0 * a.head_parameters * output_tokens
    return dense + 4.0 * a.layers * a.num_heads * a.head_dim * attended


def _first(config: dict[str, Any], *names: str) -> int | None:
    found = next((config[name] for name in names if isinstance(config.get(name), int)), None)
    return found or None


def _tensor_shapes(paths: list[Path]) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes in the headers of safetensors files."""
    for path in paths:
        try:
            with open(path, "rb") as file:
                (size,) = struct.unpack("<Q", file.read(8))
                if size > path.stat().st_size:
                    raise ValueError("the header is longer than the file")
                header = json.loads(file.read(size))
                shapes = {name: list(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
        except OSError as error:
            raise LemError(f"can't read {path}: {error.strerror}") from error
        except (ValueError, AttributeError, KeyError, TypeError, struct.error) as error:
            raise LemError(f"{path} is no safetensors file ({error}); get the file again") from error
        yield from shapes.items()


def _multiplying(
    shapes: dict[str, list[int]], config: dict[str, Any], *, active_share: float
) -> tuple[int | None, int | None, bool]:
    """Weights of the body, of the output projection, and whether the names were understood."""
    embedding = next((shapes[name] for name in shapes if name.endswith(_EMBEDDINGS)), None)
    head = next((shapes[name] for name in shapes if name.endswith(_HEADS) and ".layers." not in name), None)
    body = 0.0
    for name, shape in shapes.items():
        if len(shape) < 2 or name.endswith((*_EMBEDDINGS, *_POSITIONS)) or shapes[name] is head:
            continue  # norms and biases add; embeddings are looked up
        expert = ".experts." in name and "shared" not in name
        body += math.prod(shape) * (active_share if expert else 1.0)
    projection = head or embedding  # tied where there is no projection of its own
    known = embedding is not None and projection is not None
    return (round(body) or None, math.prod(projection) if projection else None, known)


def _active_share(config: dict[str, Any]) -> tuple[float, str]:
    """Share of the experts that a token goes through."""
    total = _first(config, "num_local_experts", "num_experts", "n_routed_experts")
    active = _first(config, "num_experts_per_tok", "num_experts_per_token", "moe_top_k")
    if total is None:
        return 1.0, ""
    if active is None:
        return 1.0, f"config.json does not say how many of {total} experts are active: all are counted"
    return active / total, f"{active} of {total} experts are active"


def _all_layers_slide(config: dict[str, Any]) -> bool:
    kinds = config.get("layer_types")
    return not isinstance(kinds, list) or all(kind == "sliding_attention" for kind in kinds)


def _trust(config: dict[str, Any], expert_note: str, *, complete: bool) -> tuple[Literal["high", "medium", "low"], str]:
    """How far the result can be trusted, and why not further."""
    if not complete:
        return "low", "the architecture was not recognised in full"
    if config.get("model_type") in _RECURRENT:
        return "low", f"{config['model_type']} does not attend to all positions before"
    if "quantization_config" in config:
        return "low", "weights are packed by quantisation, so their number is not that of their shapes"
    layers = config.get("layer_types")
    if isinstance(layers, list) and len(set(layers)) > 1:
        return "medium", "layers of different attention: all are counted with full attention"
    if expert_note:
        return ("low" if "all are counted" in expert_note else "medium"), expert_note
    return "high", ""
