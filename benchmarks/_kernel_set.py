"""The operators of medvllm.kernels, as benchmark_kernels.py times them.

Shapes on a GPU: convolutions of segmentation networks, decoding and prefill of models of 7 to 8 billion parameters.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from _bench import Case, Unavailable
from _operators import OPERATORS, Inputs, Operator, Prepare, case, fused, ours, provider, register

if TYPE_CHECKING:
    import torch


def _bytes(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _randn(*shape: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    import torch

    return torch.randn(shape, dtype=torch.float32, device=device).to(dtype)


# ---- convolutions -------------------------------------------------------------------------------------------------


def _conv_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    batch, channels, *image, kernel = shape
    x = _randn(batch, channels, *image, dtype=dtype, device=device)
    weight = _randn(channels, 1, *[kernel] * len(image), dtype=dtype, device=device) / kernel ** (len(image) / 2)
    return {"x": x, "weight": weight, "padding": kernel // 2}


def _conv2d(x: torch.Tensor, weight: torch.Tensor, padding: int) -> torch.Tensor:
    import torch.nn.functional as F

    return F.conv2d(x, weight, padding=padding, groups=x.shape[1])


def _conv3d(
    x: torch.Tensor, weight: torch.Tensor, padding: int, bias: torch.Tensor | None = None, relu: bool = False
) -> torch.Tensor:
    import torch.nn.functional as F

    y = F.conv3d(x, weight, bias, padding=padding, groups=x.shape[1])
    return y.relu() if relu else y


def _conv_bytes(inputs: Inputs) -> int:
    return 2 * _bytes(inputs["x"]) + _bytes(inputs["weight"])  # odd kernels with half padding keep the size


def _last(inputs: Inputs) -> Inputs:
    """The same in channels_last; PyTorch sends depthwise convolutions in it to cuDNN on a GPU."""
    import torch

    x, weight = inputs["x"], inputs["weight"]
    layout = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return inputs | {"x": x.contiguous(memory_format=layout), "weight": weight.contiguous(memory_format=layout)}


for _name, _eager, _shapes in (
    (
        "depthwise_conv2d",
        _conv2d,
        {
            "cpu": ((1, 8, 64, 64, 3), (1, 8, 64, 64, 5)),
            "cuda": (
                (8, 8, 128, 128, 3),
                (8, 32, 256, 256, 3),
                (8, 64, 512, 512, 3),
                (8, 64, 512, 512, 5),
                (8, 64, 512, 512, 7),
            ),
        },
    ),
    (
        "separable_conv3d",
        _conv3d,
        {"cpu": ((1, 4, 8, 32, 32, 3),), "cuda": ((1, 32, 32, 128, 128, 3), (2, 64, 32, 128, 128, 3))},
    ),
):
    register(
        Operator(
            name=_name,
            dimensions=("batch", "channels", *("depth", "height", "width")[-(len(_shapes["cpu"][0]) - 3) :], "kernel"),
            shapes=_shapes,
            inputs=_conv_inputs,
            eager=_eager,
            bytes_moved=_conv_bytes,
        )
    )


def _eager_last(name: str) -> Prepare:
    def prepare(inputs: Inputs) -> Callable[[], Any]:
        last = _last(inputs)
        return lambda: OPERATORS[name].eager(**last)

    return prepare


for _name in ("depthwise_conv2d", "separable_conv3d"):
    provider(_name, "channels_last")(_eager_last(_name))


@provider("depthwise_conv2d", "ours_channels_last")
def _ours_last(inputs: Inputs) -> Callable[[], Any]:
    return ours("depthwise_conv2d", _last(inputs))


@provider("depthwise_conv2d", "fused")
def _fused(inputs: Inputs) -> Callable[[], Any]:
    """The module of the public builder, which is None where there is no Triton kernel for this machine."""
    import torch

    from medvllm import kernels

    x, weight, padding = inputs["x"], inputs["weight"], inputs["padding"]
    module = kernels.build_fused_depthwise_conv2d_if_available(x.shape[1], weight.shape[-1], padding=padding)
    if module is None:
        raise Unavailable(str(kernels.explain()["depthwise_conv2d"]["reason"]))
    module = module.to(device=x.device, dtype=x.dtype).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(weight.view_as(parameter)) if name.endswith("weight") else parameter.zero_()

    def call() -> Any:
        with torch.inference_mode():
            return module(x)

    return call


@provider("depthwise_conv2d", "fused_channels_last")
def _fused_last(inputs: Inputs) -> Callable[[], Any]:
    return _fused(_last(inputs))


@provider("separable_conv3d", "fused_channels_last")
def _fused_last_3d(inputs: Inputs) -> Callable[[], Any]:
    return fused("separable_conv3d", _last(inputs))


def epilogue(*, bias: bool, relu: bool) -> tuple[bool, bool]:
    """Whether a bias and ReLU follow: asked for here, or by the kernel's own variables."""

    def on(name: str) -> bool:
        return os.environ.get(name, "") not in ("", "0")

    return bias or on("MEDVLLM_SEP3D_FUSE_BIAS"), relu or on("MEDVLLM_SEP3D_FUSE_RELU")


def separable_conv3d(*, bias: bool, relu: bool) -> Operator:
    """The 3-D operator with what follows it: fused in our kernel, one after another in PyTorch's."""
    plain = OPERATORS["separable_conv3d"]

    def inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
        made = plain.inputs(shape, dtype, device)
        if bias:
            made["bias"] = _randn(shape[1], dtype=dtype, device=device)
        return made | ({"relu": True} if relu else {})

    return dataclasses.replace(plain, inputs=inputs)


def depthwise_case(shape: tuple[int, ...], *, dtype: str, device: str, providers: Sequence[str]) -> Case:
    """A depthwise convolution of (batch, channels, [depth,] height, width, kernel)."""
    operator = OPERATORS["depthwise_conv2d" if len(shape) == 5 else "separable_conv3d"]
    return case(operator, shape, dtype=dtype, device=device, providers=providers)


# ---- attention ----------------------------------------------------------------------------------------------------


def _softmaxv_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    batch, heads, queries, keys, dim = shape
    return {
        "scores": _randn(batch, heads, queries, keys, dtype=dtype, device=device),
        "v": _randn(batch, heads, keys, dim, dtype=dtype, device=device),
    }


def _softmaxv(scores: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.softmax(scores, dim=-1) @ v


register(
    Operator(
        name="softmaxv",
        dimensions=("batch", "heads", "queries", "keys", "dim"),
        shapes={"cpu": ((1, 4, 128, 128, 64),), "cuda": ((8, 8, 512, 512, 64), (2, 16, 4096, 4096, 64))},
        inputs=_softmaxv_inputs,
        eager=_softmaxv,
        bytes_moved=lambda inputs: (
            _bytes(inputs["scores"], inputs["v"])
            + inputs["scores"].numel() // inputs["v"].shape[2] * inputs["v"].shape[3] * inputs["v"].element_size()
        ),
    )
)


def _store_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    import torch

    tokens, heads, dim = shape
    blocks = -(-tokens // 16) + 4
    cache = torch.zeros(2, blocks, 16, heads, dim, dtype=dtype, device=device)
    return {
        "k": _randn(tokens, heads, dim, dtype=dtype, device=device),
        "v": _randn(tokens, heads, dim, dtype=dtype, device=device),
        "cache": cache,
        "slot_mapping": torch.randperm(blocks * 16, device=device)[:tokens],
    }


def _store(k: torch.Tensor, v: torch.Tensor, cache: torch.Tensor, slot_mapping: torch.Tensor) -> torch.Tensor:
    flat = cache.view(2, -1, *k.shape[1:])
    flat[0].index_copy_(0, slot_mapping, k)
    flat[1].index_copy_(0, slot_mapping, v)
    return cache


register(
    Operator(
        name="store_kv",
        dimensions=("tokens", "kv_heads", "head_dim"),
        shapes={"cpu": ((256, 8, 128),), "cuda": ((8192, 8, 128),)},
        inputs=_store_inputs,
        eager=_store,
        bytes_moved=lambda inputs: 2 * _bytes(inputs["k"], inputs["v"]) + _bytes(inputs["slot_mapping"]),
        writes=("cache",),
    )
)


@provider("store_kv", "ours")
def _ours_store(inputs: Inputs) -> Callable[[], Any]:
    from medvllm import kernels

    k, v, slots, cache = inputs["k"], inputs["v"], inputs["slot_mapping"], inputs["cache"]

    def call() -> Any:
        kernels.store_kv(k, v, cache[0], cache[1], slots)
        return cache

    return call


def _decode_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    import torch

    batch, heads, kv_heads, dim, context = shape
    per_sequence = -(-context // 16)
    tables = torch.randperm(batch * per_sequence, device=device, dtype=torch.int32).view(batch, per_sequence)
    cache = _randn(2, batch * per_sequence, 16, kv_heads, dim, dtype=dtype, device=device)
    return {
        "q": _randn(batch, heads, dim, dtype=dtype, device=device),
        "k_cache": cache[0],
        "v_cache": cache[1],
        "block_tables": tables,
        "context_lens": torch.full((batch,), context, dtype=torch.int32, device=device),
    }


def _decode(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
) -> torch.Tensor:
    """Gathers each sequence's blocks, then SDPA; all sequences are equally long."""
    import torch
    import torch.nn.functional as F

    repeat = q.shape[1] // k_cache.shape[2]
    tables = block_tables.long()
    k, v = (cache[tables].flatten(1, 2).transpose(1, 2) for cache in (k_cache, v_cache))  # (B, KV, T, D)
    k, v = (torch.repeat_interleave(tensor, repeat, dim=1) for tensor in (k, v))
    longest = k.shape[2]
    keep = torch.arange(longest, device=q.device)[None, :] < context_lens[:, None]
    return F.scaled_dot_product_attention(q[:, :, None], k, v, attn_mask=keep[:, None, None])[:, :, 0]


register(
    Operator(
        name="paged_decode_attention",
        dimensions=("batch", "heads", "kv_heads", "head_dim", "context"),
        shapes={"cpu": ((4, 8, 2, 64, 100),), "cuda": ((64, 32, 8, 128, 4096), (8, 32, 8, 128, 4096))},
        inputs=_decode_inputs,
        eager=_decode,
        bytes_moved=lambda inputs: (
            2 * _bytes(inputs["q"]) + int(inputs["context_lens"].sum()) * 2 * _bytes(inputs["k_cache"][0, 0])
        ),
    )
)


# ---- layers -------------------------------------------------------------------------------------------------------


def _rms_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    tokens, hidden = shape
    # Eighths up to 4, whose sums bf16 holds exactly: rounding x + residual is the operator's contract, not its error.
    x, residual = ((_randn(tokens, hidden, dtype=dtype, device=device).clamp(-4, 4) * 8).round() / 8 for _ in range(2))
    return {"x": x, "weight": _randn(hidden, dtype=dtype, device=device), "eps": 1e-6, "residual": residual}


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor) -> Any:
    import torch

    h = x + residual
    wide = h.to(torch.promote_types(h.dtype, torch.float32))
    normal = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (normal * weight.to(wide.dtype)).to(x.dtype), h


register(
    Operator(
        name="rms_norm",
        dimensions=("tokens", "hidden"),
        shapes={"cpu": ((64, 1024),), "cuda": ((8192, 4096), (64, 4096))},
        inputs=_rms_inputs,
        eager=_rms_norm,
        bytes_moved=lambda inputs: 4 * _bytes(inputs["x"]) + _bytes(inputs["weight"]),
    )
)


def _rotary_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    import torch

    tokens, heads, kv_heads, dim = shape
    rates = 10_000 ** (-torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)
    angles = torch.arange(tokens, device=device, dtype=torch.float32)[:, None] * rates
    return {
        "q": _randn(tokens, heads, dim, dtype=dtype, device=device),
        "k": _randn(tokens, kv_heads, dim, dtype=dtype, device=device),
        "positions": torch.randperm(tokens, device=device),
        "cos_sin": torch.cat((angles.cos(), angles.sin()), -1),
    }


def _rotary(
    q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    wide = torch.promote_types(q.dtype, torch.float32)
    cos, sin = cos_sin[positions].to(wide)[:, None].chunk(2, -1)  # (tokens, 1, dim / 2)

    def turn(x: torch.Tensor) -> torch.Tensor:
        a, b = x.to(wide).chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)

    return turn(q), turn(k)


register(
    Operator(
        name="rotary",
        dimensions=("tokens", "heads", "kv_heads", "head_dim"),
        shapes={"cpu": ((64, 8, 2, 64),), "cuda": ((8192, 32, 8, 128), (64, 32, 8, 128))},
        inputs=_rotary_inputs,
        eager=_rotary,
        bytes_moved=lambda inputs: (
            2 * _bytes(inputs["q"], inputs["k"]) + _bytes(inputs["positions"], inputs["cos_sin"])
        ),
    )
)


def _silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    import torch
    import torch.nn.functional as F

    gate, up = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, -1)
    return (F.silu(gate) * up).to(x.dtype)


register(
    Operator(
        name="silu_and_mul",
        dimensions=("tokens", "width"),
        shapes={"cpu": ((64, 1024),), "cuda": ((8192, 14336), (64, 14336))},
        inputs=lambda shape, dtype, device: {"x": _randn(shape[0], 2 * shape[1], dtype=dtype, device=device)},
        eager=_silu_and_mul,
        bytes_moved=lambda inputs: _bytes(inputs["x"]) * 3 // 2,
    )
)


def _bias_gelu(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    import torch
    import torch.nn.functional as F

    wide = torch.promote_types(x.dtype, torch.float32)
    return F.gelu(x.to(wide) + bias.to(wide)).to(x.dtype)


register(
    Operator(
        name="bias_gelu",
        dimensions=("tokens", "width"),
        shapes={"cpu": ((64, 1024),), "cuda": ((8192, 4096), (64, 4096))},
        inputs=lambda shape, dtype, device: {
            "x": _randn(*shape, dtype=dtype, device=device),
            "bias": _randn(shape[1], dtype=dtype, device=device),
        },
        eager=_bias_gelu,
        bytes_moved=lambda inputs: 2 * _bytes(inputs["x"]) + _bytes(inputs["bias"]),
    )
)
