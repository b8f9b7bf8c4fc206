"""Every kernel against its float64 reference, over odd shapes, strides and dtypes; gradients where there are any."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from medvllm_kernels import triton_paged_attention as paged
from medvllm_kernels.triton_bias_gelu import bias_gelu, bias_gelu_reference
from medvllm_kernels.triton_depthwise_conv2d import depthwise_conv2d, depthwise_conv2d_reference
from medvllm_kernels.triton_kv_cache import store_kv, store_kv_reference
from medvllm_kernels.triton_rms_norm import rms_norm, rms_norm_reference
from medvllm_kernels.triton_rope import rotary, rotary_reference
from medvllm_kernels.triton_separable_conv3d import separable_conv3d, separable_conv3d_reference
from medvllm_kernels.triton_softmaxv import softmaxv, softmaxv_reference
from medvllm_kernels.triton_swiglu import silu_and_mul, swiglu, swiglu_reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "fp16", "bf16"])


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape).to(dtype)


# ---- KV cache and decode ------------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize(("heads", "head_dim"), [(3, 64), (2, 80), (1, 96), (8, 128)])
def test_store_kv_writes_the_slots_and_nothing_else(
    accuracy: Any, dtype: torch.dtype, heads: int, head_dim: int
) -> None:
    qkv = randn(9, 3 * heads * head_dim, dtype=dtype).to(accuracy.device)  # k and v are views of it
    k, v = (part.view(9, heads, head_dim) for part in qkv.chunk(3, -1)[1:])
    caches = [randn(5, 4, heads, head_dim, dtype=dtype).to(accuracy.device) for _ in range(2)]
    slots = torch.randperm(20)[:9].to(accuracy.device)
    slots[[2, 5]] = -1
    expected = [cache.clone() for cache in caches]
    store_kv_reference(k, v, *expected, slots)
    store_kv(k, v, *caches, slots)
    accuracy.ran("store_kv")
    assert all(torch.equal(one, other) for one, other in zip(caches, expected, strict=True))


def test_store_kv_takes_any_strides_and_converts(accuracy: Any) -> None:
    k, v = (randn(2, 6, 5).permute(1, 0, 2).to(accuracy.device) for _ in range(2))  # heads before tokens in memory
    caches = [torch.zeros(3, 2, 4, 5, dtype=torch.float16, device=accuracy.device)[:, :, ::2] for _ in range(2)]
    slots = torch.tensor([5, 0, 3, 1, -1, 2], dtype=torch.int32, device=accuracy.device)
    store_kv(k, v, *caches, slots)
    for values, cache in zip((k, v), caches, strict=True):
        for token, slot in enumerate(slots.tolist()):
            assert slot < 0 or torch.equal(cache[slot // 2, slot % 2], values[token].half())
        assert not cache[2, 0].any(), "slot 4 belongs to no token"


DECODES = {
    "grouped heads, an empty context": (dict(heads=4, kv_heads=2, dim=64, lengths=[5, 0, 33]), {}),
    "width of no power of two, window": (dict(heads=6, kv_heads=2, dim=96, lengths=[70, 1, 19]), {"window": 20}),
    "split context, softcap": (dict(heads=3, kv_heads=1, dim=80, lengths=[600, 7]), {"softcap": 5.0}),
    "widest, split context": (dict(heads=1, kv_heads=1, dim=256, lengths=[520]), {"scale": 0.05}),
    "many queries a key": (dict(heads=71, kv_heads=1, dim=64, lengths=[40]), {}),
}


@every_dtype
@pytest.mark.parametrize("name", DECODES)
def test_paged_decode_attention(accuracy: Any, dtype: torch.dtype, name: str) -> None:
    shape, options = DECODES[name]
    lengths: list[int] = shape["lengths"]
    blocks = -(-max(lengths) // 16)
    cache_shape = (blocks * len(lengths) + 1, 16, shape["kv_heads"], shape["dim"])
    k_cache, v_cache = (torch.full(cache_shape, torch.nan, dtype=dtype) for _ in range(2))  # what is not read stays NaN
    tables = torch.randperm(cache_shape[0])[: blocks * len(lengths)].view(len(lengths), blocks).int()
    for row, length in enumerate(lengths):
        token = torch.arange(length)
        for cache in (k_cache, v_cache):
            cache[tables[row].long()[token // 16], token % 16] = randn(length, *cache_shape[2:], dtype=dtype)
    accuracy(
        "paged_decode_attention",
        lambda *tensors: paged.paged_decode_attention(*tensors, **options),
        lambda *tensors: paged.paged_decode_attention_reference(*tensors, **options),
        randn(len(lengths), shape["heads"], shape["dim"], dtype=dtype),
        k_cache,
        v_cache,
        tables,
        torch.tensor(lengths, dtype=torch.int32),
        gradients=False,
    )


def test_paged_decode_attention_is_softmax_attention(accuracy: Any) -> None:
    """The reference itself, against attention over the tokens in order."""
    q, k, v = randn(1, 2, 64), randn(32, 1, 64), randn(32, 1, 64)
    tables = torch.tensor([[1, 0]])
    caches = [x.view(2, 16, 1, 64)[[1, 0]].to(accuracy.device) for x in (k, v)]
    out = paged.paged_decode_attention(
        q.to(accuracy.device), *caches, tables.to(accuracy.device), torch.tensor([30], device=accuracy.device)
    )
    scores = q[0].double() @ k[:30, 0].double().T / 8.0
    accuracy.close(out[0], scores.softmax(-1) @ v[:30, 0].double())


# ---- elementwise and rows -----------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("shape", [(3, 7, 123), (5, 4096), (2, 9001), (70, 64), (0, 8), (3, 1)], ids=str)
def test_rms_norm(accuracy: Any, dtype: torch.dtype, shape: tuple[int, ...], residual: bool) -> None:
    tensors = [randn(*shape, dtype=dtype), randn(shape[-1], dtype=dtype)]
    if residual:
        # The sum is rounded to x's dtype, as adding the two would: whole quarters are exact in all of them.
        tensors = [(x * 4).round() / 4 for x in (*tensors, randn(*shape, dtype=dtype))]
    accuracy(
        "rms_norm",
        lambda x, weight, *rest: rms_norm(x, weight, 1e-5, *rest),
        lambda x, weight, *rest: (
            rms_norm_reference(x, weight, 1e-5, *rest) if rest else rms_norm_reference(x, weight, 1e-5)[0]
        ),
        *tensors,
    )


@every_dtype
@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "interleaved"])
@pytest.mark.parametrize(("heads", "kv_heads", "dim", "turning"), [(4, 2, 64, 64), (3, 1, 80, 32), (5, 5, 96, 96)])
def test_rotary(
    accuracy: Any, dtype: torch.dtype, heads: int, kv_heads: int, dim: int, turning: int, interleaved: bool
) -> None:
    angles = torch.rand(50, turning // 2) * 6.3
    accuracy(
        "rotary",
        lambda *tensors: rotary(*tensors, interleaved=interleaved),
        lambda *tensors: rotary_reference(*tensors, interleaved=interleaved),
        randn(7, heads, dim, dtype=dtype),
        randn(kv_heads, 7, dim, dtype=dtype).transpose(0, 1),
        torch.randint(0, 50, (7,)),
        torch.cat((angles.cos(), angles.sin()), -1),
        frozen=[3],
    )


@every_dtype
@pytest.mark.parametrize("shape", [(2, 3, 8), (6, 42, 46), (3, 2050), (0, 4), (5, 2)], ids=str)
def test_swiglu(accuracy: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    gate, up = randn(*shape, dtype=dtype) * 4, randn(*shape, dtype=dtype)
    accuracy("silu_and_mul", swiglu, swiglu_reference, gate, up)
    accuracy("silu_and_mul", swiglu, swiglu_reference, gate[..., ::2], up[..., ::2])
    accuracy("silu_and_mul", silu_and_mul, lambda x: swiglu_reference(*x.chunk(2, -1)), gate)


@every_dtype
@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("shape", [(2, 3, 8), (6, 42, 23), (70, 128), (3, 2050), (0, 4)], ids=str)
def test_bias_gelu(accuracy: Any, dtype: torch.dtype, shape: tuple[int, ...], approximate: str) -> None:
    accuracy(
        "bias_gelu",
        lambda x, bias: bias_gelu(x, bias, approximate=approximate),
        lambda x, bias: bias_gelu_reference(x, bias, approximate=approximate),
        randn(*shape, dtype=dtype) * 3,
        randn(shape[-1], dtype=dtype),
    )


# ---- softmax×V ----------------------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize(
    ("lead", "rows", "columns", "width"),
    [
        ((2, 1), 33, 77, 64),
        ((1,), 5, 384, 96),
        ((1, 1, 1), 3, 1000, 20),
        ((), 3, 70, 300),
        ((2,), 0, 5, 8),
        ((1,), 1, 1, 1),
    ],
)
def test_softmaxv(
    accuracy: Any, dtype: torch.dtype, lead: tuple[int, ...], rows: int, columns: int, width: int
) -> None:
    accuracy(
        "softmaxv",
        softmaxv,
        softmaxv_reference,
        randn(*lead, rows, columns, dtype=dtype) * 2,
        randn(*lead, columns, width, dtype=dtype) / 4,
    ) if rows else softmaxv(randn(2, 0, 5), randn(2, 5, 8))


def test_softmaxv_takes_any_strides_and_masked_scores(accuracy: Any) -> None:
    scores = randn(1, 70, 40).transpose(1, 2)
    scores = scores.masked_fill(torch.arange(70) < 66, -torch.inf)  # the first tile of columns holds nothing
    accuracy("softmaxv", softmaxv, softmaxv_reference, scores, randn(1, 16, 70).transpose(1, 2))


# ---- convolutions -------------------------------------------------------------------------------------------------

# shape, kernel, stride, padding, dilation
CONV2D = {
    "K3": ((1, 3, 17, 35), 3, 1, 1, 1),
    "even K": ((1, 4, 9, 33), 4, 1, 2, 1),
    "K5 stride 2": ((2, 4, 13, 19), 5, 2, 2, 1),
    "dilation 2": ((1, 4, 21, 30), 3, 1, 2, 2),
    "all different": ((1, 4, 20, 30), (3, 2), (2, 3), (0, 5), (3, 2)),
    "wide, padded beyond the filter": ((1, 5, 6, 9), (2, 7), 1, (4, 9), 1),
    "1×1": ((2, 4, 3, 5), 1, 1, 0, 1),
}
layouts = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])


def _conv2d(accuracy: Any, dtype: torch.dtype, layout: Any, name: str) -> None:
    shape, kernel, stride, padding, dilation = CONV2D[name]
    numbers: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    (y,) = accuracy(
        "depthwise_conv2d",
        lambda *tensors: depthwise_conv2d(*tensors, **numbers),
        lambda *tensors: depthwise_conv2d_reference(*tensors, **numbers),
        randn(*shape, dtype=dtype).contiguous(memory_format=layout),
        randn(shape[1], 1, *sides, dtype=dtype) / sides[0],
        randn(shape[1], dtype=dtype),
    )
    assert y.is_contiguous(memory_format=layout) or min(shape[1:]) == 1


@layouts
@pytest.mark.parametrize("name", CONV2D)
def test_depthwise_conv2d(accuracy: Any, layout: Any, name: str) -> None:
    _conv2d(accuracy, torch.float32, layout, name)


@layouts
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=["fp16", "bf16"])
def test_depthwise_conv2d_in_half_precision(accuracy: Any, layout: Any, dtype: torch.dtype) -> None:
    _conv2d(accuracy, dtype, layout, "all different")


def test_depthwise_conv2d_takes_any_strides_and_sizes(accuracy: Any) -> None:
    weight = randn(3, 1, 3, 3)
    for x in (randn(1, 6, 9, 20)[:, ::2, :, ::2], randn(1, 3, 20, 9).transpose(2, 3), randn(0, 3, 5, 5)):
        accuracy(
            "depthwise_conv2d",
            lambda x, weight: depthwise_conv2d(x, weight, padding=1),
            lambda x, weight: depthwise_conv2d_reference(x, weight, padding=1),
            x,
            weight,
        )


# shape, stride, padding, dilation, relu
CONV3D = {
    "shared rows, bias, ReLU": ((1, 1, 3, 5, 70), 1, 1, 1, True),
    "stride 2": ((1, 2, 5, 4, 20), 2, 1, 1, False),
    "dilation 2": ((1, 1, 3, 5, 33), 1, 2, 2, False),
    "one voxel": ((2, 1, 1, 1, 1), 1, 1, 1, True),
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.float32) for name in CONV3D), ("stride 2", torch.float16), ("stride 2", torch.bfloat16)],
)
def test_separable_conv3d(accuracy: Any, name: str, dtype: torch.dtype) -> None:
    shape, stride, padding, dilation, relu = CONV3D[name]
    numbers: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "relu": relu}
    accuracy(
        "separable_conv3d",
        lambda *tensors: separable_conv3d(*tensors, **numbers),
        lambda *tensors: separable_conv3d_reference(*tensors, **numbers),
        randn(*shape, dtype=dtype),
        randn(shape[1], 1, 3, 3, 3, dtype=dtype) / 5,
        randn(shape[1], dtype=dtype),
    )
