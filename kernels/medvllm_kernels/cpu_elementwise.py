"""Norms, activations, rotary embedding and greedy choice on the CPU, each with its torch reference.

Inputs are contiguous float32 or bfloat16, arithmetic is in float32 and rounded once at the end; weights are float32.
"""

from __future__ import annotations

import torch

from medvllm_kernels import engine_native

__all__ = [
    "ACTIVATIONS",
    "act_and_mul",
    "act_and_mul_reference",
    "activate",
    "activate_reference",
    "greedy",
    "layer_norm",
    "layer_norm_reference",
    "rms_norm",
    "rms_norm_reference",
    "rotary",
    "rotary_cos_sin",
    "rotary_reference",
]

# gelu_tanh is GPT-2's gelu_new and Gemma's gelu_pytorch_tanh.
ACTIVATIONS = {"silu": 0, "gelu_tanh": 1, "gelu": 2, "relu": 3}
_DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None = None,
    *,
    offset: float = 0.0,
    threads: int | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """x / sqrt(mean(x²) + eps) * (weight + offset) over the last dimension; offset=1 is Gemma's.

    With `residual` (of x's shape): the norm of x + residual, and that sum.
    """
    _check("x", x)
    _check_weight("weight", weight, x.shape[-1])
    if residual is not None:
        _check("residual", residual)
        if residual.shape != x.shape or residual.dtype != x.dtype:
            raise ValueError(f"residual must be like x, {x.dtype} {tuple(x.shape)}, got {tuple(residual.shape)}")
    library = engine_native.library()
    if library is None:
        return rms_norm_reference(x, weight, eps, residual, offset=offset)
    y = torch.empty_like(x)
    total = torch.empty_like(x) if residual is not None else None
    library.mv_engine_rms_norm(
        x.data_ptr(),
        _pointer(residual),
        _pointer(weight),
        y.data_ptr(),
        _pointer(total),
        x.numel() // x.shape[-1],
        x.shape[-1],
        eps,
        offset,
        _DTYPE_CODES[x.dtype],
        threads or engine_native.threads(),
    )
    return y if total is None else (y, total)


def rms_norm_reference(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None = None,
    *,
    offset: float = 0.0,
    threads: int | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """The same in torch."""
    total = x if residual is None else x + residual
    values = total.float()
    normed = values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + eps)
    if weight is not None:
        normed = normed * (weight + offset)
    y = normed.to(x.dtype)
    return y if residual is None else (y, total)


def layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    *,
    threads: int | None = None,
) -> torch.Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension."""
    _check("x", x)
    _check_weight("weight", weight, x.shape[-1])
    _check_weight("bias", bias, x.shape[-1])
    library = engine_native.library()
    if library is None:
        return layer_norm_reference(x, weight, bias, eps)
    y = torch.empty_like(x)
    library.mv_engine_layer_norm(
        x.data_ptr(),
        _pointer(weight),
        _pointer(bias),
        y.data_ptr(),
        x.numel() // x.shape[-1],
        x.shape[-1],
        eps,
        _DTYPE_CODES[x.dtype],
        threads or engine_native.threads(),
    )
    return y


def layer_norm_reference(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    *,
    threads: int | None = None,
) -> torch.Tensor:
    """The same in torch."""
    return torch.nn.functional.layer_norm(x.float(), x.shape[-1:], weight, bias, eps).to(x.dtype)


def act_and_mul(x: torch.Tensor, activation: str, *, threads: int | None = None) -> torch.Tensor:
    """(…, 2 n) → (…, n): activation of the first half times the second."""
    _check("x", x)
    _check_activation(activation)
    if x.shape[-1] % 2:
        raise ValueError(f"the last dimension of x must be even, got {x.shape[-1]}")
    library = engine_native.library()
    if library is None:
        return act_and_mul_reference(x, activation)
    columns = x.shape[-1] // 2
    y = torch.empty((*x.shape[:-1], columns), dtype=x.dtype)
    library.mv_engine_act_and_mul(
        x.data_ptr(),
        y.data_ptr(),
        x.numel() // x.shape[-1],
        columns,
        ACTIVATIONS[activation],
        _DTYPE_CODES[x.dtype],
        threads or engine_native.threads(),
    )
    return y


def act_and_mul_reference(x: torch.Tensor, activation: str, *, threads: int | None = None) -> torch.Tensor:
    """The same in torch."""
    gate, up = x.float().chunk(2, dim=-1)
    return (_activation(gate, activation) * up).to(x.dtype)


def activate(x: torch.Tensor, activation: str, *, threads: int | None = None) -> torch.Tensor:
    """The activation of each element: silu, gelu_tanh (gelu_new), gelu or relu."""
    _check("x", x)
    _check_activation(activation)
    library = engine_native.library()
    if library is None:
        return activate_reference(x, activation)
    y = torch.empty_like(x)
    library.mv_engine_activate(
        x.data_ptr(),
        y.data_ptr(),
        x.numel(),
        ACTIVATIONS[activation],
        _DTYPE_CODES[x.dtype],
        threads or engine_native.threads(),
    )
    return y


def activate_reference(x: torch.Tensor, activation: str, *, threads: int | None = None) -> torch.Tensor:
    """The same in torch."""
    return _activation(x.float(), activation).to(x.dtype)


def rotary_cos_sin(inverse_frequencies: torch.Tensor, length: int, *, scale: float = 1.0) -> torch.Tensor:
    """(rotary_dim / 2,) → the table of `rotary`, (length, rotary_dim) float: cosines, then sines, times `scale`."""
    angles = torch.arange(length, dtype=torch.float32)[:, None] * inverse_frequencies.float()[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1) * scale


def rotary(
    q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor, *, threads: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotary embedding in place, pairs (i, i + rotary_dim / 2) of each head ("neox"); returns q and k.

    q, k are (tokens, heads, head_dim) with contiguous heads (also slices of one fused tensor), positions (tokens,)
    int64, cos_sin (length, rotary_dim) float of `rotary_cos_sin`. rotary_dim < head_dim leaves the rest as it is.
    """
    check_positions(positions, q.shape[0], cos_sin)
    _check_rotary(q, positions, cos_sin)
    _check_rotary(k, positions, cos_sin)
    library = engine_native.library()
    if library is None:
        return rotary_reference(q, k, positions, cos_sin)
    for x in (q, k):
        library.mv_engine_rotary(
            x.data_ptr(),
            positions.data_ptr(),
            cos_sin.data_ptr(),
            x.shape[0],
            x.shape[1],
            x.shape[2],
            cos_sin.shape[1],
            x.stride(0),
            _DTYPE_CODES[x.dtype],
            threads or engine_native.threads(),
        )
    return q, k


def rotary_reference(
    q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor, *, threads: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in torch."""
    cos, sin = cos_sin[positions][:, None].chunk(2, dim=-1)  # (tokens, 1, rotary_dim / 2)
    for x in (q, k):
        pairs = cos_sin.shape[1] // 2
        low, high = x[..., :pairs].float(), x[..., pairs : 2 * pairs].float()
        x[..., : 2 * pairs] = torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1).to(x.dtype)
    return q, k


def greedy(logits: torch.Tensor, *, threads: int | None = None) -> torch.Tensor:
    """(rows, vocabulary) float → (rows,) int64, the first of the largest logits."""
    if logits.dim() != 2 or logits.dtype != torch.float32 or not logits.is_contiguous() or not logits.shape[1]:
        raise ValueError(f"logits must be contiguous float32 (rows, vocabulary), got {logits.dtype} {logits.shape}")
    library = engine_native.library()
    if library is None:
        return logits.argmax(-1)
    ids = torch.empty(logits.shape[0], dtype=torch.int64)
    library.mv_engine_argmax(
        logits.data_ptr(), logits.shape[0], logits.shape[1], ids.data_ptr(), threads or engine_native.threads()
    )
    return ids


def _pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _activation(x: torch.Tensor, name: str) -> torch.Tensor:
    if name == "silu":
        return torch.nn.functional.silu(x)
    if name == "relu":
        return torch.relu(x)
    return torch.nn.functional.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")


def _check(name: str, x: torch.Tensor) -> None:
    if x.dtype not in _DTYPE_CODES or not x.is_contiguous() or x.dim() < 1 or not x.shape[-1]:
        raise ValueError(
            f"{name} must be contiguous float32 or bfloat16 with a last dimension, got {x.dtype} {tuple(x.shape)}"
        )


def _check_weight(name: str, weight: torch.Tensor | None, columns: int) -> None:
    if weight is not None and (
        weight.shape != (columns,) or weight.dtype != torch.float32 or not weight.is_contiguous()
    ):
        raise ValueError(f"{name} must be contiguous float32 ({columns},), got {weight.dtype} {tuple(weight.shape)}")


def _check_activation(activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation}")


def check_positions(positions: torch.Tensor, tokens: int, cos_sin: torch.Tensor) -> None:
    """Raises ValueError where positions are not those of the table."""
    if positions.shape != (tokens,) or positions.dtype != torch.int64 or not positions.is_contiguous():
        raise ValueError(f"positions must be int64 ({tokens},), got {positions.dtype} {tuple(positions.shape)}")
    low, high = engine_native.span(positions) if tokens else (0, 0)
    if tokens and not 0 <= low <= high < cos_sin.shape[0]:
        raise ValueError(f"positions must be in [0, {cos_sin.shape[0]}), got {low} to {high}")


def _check_rotary(x: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor) -> None:
    if x.dim() != 3 or x.dtype not in _DTYPE_CODES or x.stride()[1:] != (x.shape[2], 1):
        raise ValueError(
            "q and k must be float32 or bfloat16 (tokens, heads, head_dim) with contiguous heads, "
            f"got {x.dtype} {tuple(x.shape)}"
        )
    if x.shape[0] != positions.numel():
        raise ValueError(f"q and k must have {positions.numel()} tokens as positions do, got {x.shape[0]}")
    if cos_sin.dim() != 2 or cos_sin.dtype != torch.float32 or not cos_sin.is_contiguous():
        raise ValueError(f"cos_sin must be contiguous float32 (length, rotary_dim), got {cos_sin.dtype}")
    if cos_sin.shape[1] % 2 or cos_sin.shape[1] > x.shape[2]:
        raise ValueError(f"rotary_dim must be even and at most the head's {x.shape[2]}, got {cos_sin.shape[1]}")
