"""y = x W^T + b on the CPU, for weights packed once in fp32, bf16, int8 or int4.

A packed weight serves all batch sizes. fp32 and bf16 weights are multiplied in fp32. For int8 and int4 weights x is
rounded to 8 bits with a scale per row and block of 32 values of k (`rounded`); a block's products are summed as whole
numbers, the blocks in fp32. Every output is one chain of fused multiply-adds in the order of k, so a row's result is
the same bit by bit for any batch and number of threads: there is no other, faster mode to turn off for determinism.

Formats, weights per (output, group of k):
    fp32, bf16   as they are
    int8         scale * q, q in [-127, 127], scale float; group of k, or the whole row (group=None)
    int4         scale * q + minimum, q in [0, 15], both in half precision: GGUF's Q4_0 and Q4_1 without loss
Without the native library the reference unpacks the weight and calls torch's linear.
"""

from __future__ import annotations

import ctypes
import dataclasses

import torch

from medvllm_kernels import engine_native

__all__ = ["FORMATS", "PackedLinear", "embedding", "linear", "linear_reference", "pack", "pack_ggml", "rounded"]

FORMATS = ("fp32", "bf16", "int8", "int4")
BLOCK = 32  # values of k whose products with int8 and int4 weights are summed as whole numbers
_FORMAT_CODES = {name: code for code, name in enumerate(FORMATS)}
_DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}
# GGML type → (number in GGUF files, bytes of a block of 32 weights, format)
_GGML = {"Q4_0": (2, 18, "int4"), "Q4_1": (3, 20, "int4"), "Q8_0": (8, 34, "int8")}


class NativeLinear(ctypes.Structure):
    """struct Linear of engine.h."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("k", ctypes.c_int64),
        ("group", ctypes.c_int64),
        ("format", ctypes.c_int64),
    ]


@dataclasses.dataclass(frozen=True, slots=True)
class PackedLinear:
    """A weight (n, k) in panels of 32 outputs, or, without the native library, unpacked in `data` (n, k).

    `data` is the only copy of the weight that needs to be kept.
    """

    data: torch.Tensor
    n: int
    k: int
    format: str
    group: int  # k values per scale; k for fp32 and bf16
    native: NativeLinear | None

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads."""
        return int(self.data.numel() * self.data.element_size())

    def dequantize(self) -> torch.Tensor:
        """The weight as the products use it, (n, k) float."""
        return embedding(torch.arange(self.n), self)


def pack(
    weight: torch.Tensor, *, format: str = "bf16", group: int | None = None, threads: int | None = None
) -> PackedLinear:
    """Packs (n, k) fp32 or bf16 weights.

    int8 has a scale per `group` values of k (None: one per output), a multiple of 32; int4 has one per 32 (or `group`,
    at most 256), chosen by squared error over five ranges, each refitted by least squares.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format}")
    if weight.dim() != 2 or 0 in weight.shape or weight.dtype not in _DTYPE_CODES or weight.device.type != "cpu":
        raise ValueError(
            "weight must be a non-empty (n, k) float32 or bfloat16 tensor on the CPU, "
            f"got {tuple(weight.shape)} {weight.dtype} on {weight.device}; cast or move it"
        )
    n, k = weight.shape
    size = _group(format, group, k)
    weight = weight.detach().contiguous()
    library = engine_native.library()
    if library is None:
        return PackedLinear(_round_trip(weight, format, size), n, k, format, size, None)
    native, data = _allocate(library, n, k, format, size)
    library.mv_engine_pack(
        ctypes.byref(native), weight.data_ptr(), _DTYPE_CODES[weight.dtype], threads or engine_native.threads()
    )
    return PackedLinear(data, n, k, format, size, native)


def pack_ggml(blocks: torch.Tensor, *, type: str, n: int, k: int, threads: int | None = None) -> PackedLinear:
    """Packs the raw bytes of a GGUF tensor (n, k) of type Q4_0, Q4_1 or Q8_0 without dequantising it.

    `blocks` are n rows of k / 32 blocks, as uint8; rows may be reordered or concatenated before.
    """
    if type not in _GGML:
        raise ValueError(f"type must be one of {', '.join(_GGML)}, got {type}; dequantise it and call pack")
    number, block_bytes, format = _GGML[type]
    expected = n * (k // 32) * block_bytes
    if k % 32 or blocks.dtype != torch.uint8 or blocks.numel() != expected:
        raise ValueError(
            f"{type} of ({n}, {k}) needs k a multiple of 32 and {expected} uint8 values, "
            f"got {blocks.numel()} of {blocks.dtype}"
        )
    blocks = blocks.contiguous()
    library = engine_native.library()
    if library is None:
        return PackedLinear(_ggml_reference(blocks, type, n, k), n, k, format, 32, None)
    native, data = _allocate(library, n, k, format, 32)
    library.mv_engine_pack_ggml(ctypes.byref(native), blocks.data_ptr(), number, threads or engine_native.threads())
    return PackedLinear(data, n, k, format, 32, native)


def linear(
    x: torch.Tensor,
    packed: PackedLinear,
    bias: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    *,
    threads: int | None = None,
) -> torch.Tensor:
    """x W^T + bias: (…, k) float32 or bfloat16 → (…, n) in the dtype of x, or in `out`'s (float32 or bfloat16).

    `threads` defaults to engine_native's. Raises ValueError for shapes or dtypes that do not fit.
    """
    if x.shape[-1] != packed.k or x.dtype not in _DTYPE_CODES:
        raise ValueError(f"x must be float32 or bfloat16 (…, {packed.k}), got {x.dtype} {tuple(x.shape)}")
    if bias is not None and (bias.shape != (packed.n,) or bias.dtype != torch.float32 or not bias.is_contiguous()):
        raise ValueError(f"bias must be contiguous float32 ({packed.n},), got {bias.dtype} {tuple(bias.shape)}")
    shape = (*x.shape[:-1], packed.n)
    if out is not None and (out.shape != shape or out.dtype not in _DTYPE_CODES or not out.is_contiguous()):
        raise ValueError(f"out must be contiguous float32 or bfloat16 {shape}, got {out.dtype} {tuple(out.shape)}")
    if packed.native is None:
        return linear_reference(x, packed, bias, out)
    rows = x if x.dim() == 2 and x.stride(1) == 1 else x.reshape(-1, packed.k).contiguous()
    if out is None:
        out = torch.empty(shape, dtype=x.dtype)
    native = packed.native if bias is None else with_bias(packed.native, bias)
    library = engine_native.library()
    assert library is not None  # it packed the weight
    library.mv_engine_linear(
        ctypes.byref(native),
        rows.data_ptr(),
        rows.stride(0),
        _DTYPE_CODES[x.dtype],
        rows.shape[0],
        out.data_ptr(),
        packed.n,
        _DTYPE_CODES[out.dtype],
        threads or engine_native.threads(),
    )
    return out


def rounded(x: torch.Tensor) -> torch.Tensor:
    """(…, k) as products with int8 and int4 weights take it: 8 bits with a scale per block of 32, in float."""
    k = x.shape[-1]
    blocks = torch.nn.functional.pad(x.float(), (0, -k % BLOCK)).unflatten(-1, (-1, BLOCK))
    top = blocks.abs().amax(-1, keepdim=True)
    # 127.0 / top would multiply by the reciprocal; below 1e-36 it overflows, and the block is 0
    inverse = torch.where(top > 1e-36, torch.tensor(127.0) / top, 0.0)
    return ((blocks * inverse).round() * (top / 127.0)).flatten(-2)[..., :k]


def linear_reference(
    x: torch.Tensor,
    packed: PackedLinear,
    bias: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    *,
    threads: int | None = None,
) -> torch.Tensor:
    """The same in torch, in float with the weight unpacked; `threads` is torch's own."""
    weight = packed.data.float() if packed.native is None else packed.dequantize()
    values = rounded(x) if packed.format in ("int8", "int4") else x.float()
    result = torch.nn.functional.linear(values, weight, bias)
    if out is None:
        return result.to(x.dtype)
    return out.copy_(result)


def embedding(ids: torch.Tensor, packed: PackedLinear) -> torch.Tensor:
    """Rows of the weight, (tokens,) int64 → (tokens, k) float: the embedding of a model that ties it to its output."""
    if ids.dim() != 1 or ids.dtype != torch.int64:
        raise ValueError(f"ids must be int64 (tokens,), got {ids.dtype} {tuple(ids.shape)}")
    low, high = engine_native.span(ids) if ids.numel() else (0, 0)
    if not 0 <= low <= high < packed.n:
        raise ValueError(f"ids must be in [0, {packed.n}), got {low} to {high}")
    if packed.native is None:
        return packed.data[ids].float()
    ids = ids.contiguous()
    result = torch.empty(ids.numel(), packed.k)
    library = engine_native.library()
    assert library is not None  # it packed the weight
    library.mv_engine_gather_rows(ctypes.byref(packed.native), ids.data_ptr(), ids.numel(), result.data_ptr())
    return result


def _group(format: str, group: int | None, k: int) -> int:
    if format in ("fp32", "bf16"):
        if group is not None:
            raise ValueError(f"{format} weights have no scales: group must be None, got {group}")
        return k
    size = group if group is not None else (k if format == "int8" else BLOCK)
    if size < 1 or (size % BLOCK and size != k) or (format == "int4" and size > 256):
        limit = " of at most 256" if format == "int4" else ""
        raise ValueError(f"group must be a multiple of {BLOCK}{limit}, got {size}")
    return size


def _allocate(library: ctypes.CDLL, n: int, k: int, format: str, group: int) -> tuple[NativeLinear, torch.Tensor]:
    native = NativeLinear(None, None, n, k, group, _FORMAT_CODES[format])
    data = torch.empty(int(library.mv_engine_packed_bytes(ctypes.byref(native))), dtype=torch.uint8)
    native.data = data.data_ptr()
    return native, data


def with_bias(native: NativeLinear, bias: torch.Tensor) -> NativeLinear:
    """The same weight with a bias, (n,) contiguous float32, which the caller keeps alive."""
    return NativeLinear(native.data, bias.data_ptr(), native.n, native.k, native.group, native.format)


def _round_trip(weight: torch.Tensor, format: str, group: int) -> torch.Tensor:
    """What packing makes of a weight, in the smallest dtype that holds it; int4 by the plain range of each group."""
    if format == "fp32":
        return weight.float()
    if format == "bf16":
        return weight.bfloat16()
    n, k = weight.shape
    padded = torch.nn.functional.pad(weight.float(), (0, -k % group), mode="constant", value=float("nan"))
    grouped = padded.view(n, -1, group)
    if format == "int8":
        scale = torch.nan_to_num(grouped.abs(), nan=0.0).amax(-1, keepdim=True) / 127
        q = (grouped / scale.clamp_min(torch.finfo(torch.float32).tiny)).round()
        return (q * scale).view(n, -1)[:, :k].contiguous()
    low = torch.nan_to_num(grouped, nan=float("inf")).amin(-1, keepdim=True)
    high = torch.nan_to_num(grouped, nan=float("-inf")).amax(-1, keepdim=True)
    scale = ((high - low) / 15).half().float()
    low = low.half().float()
    q = ((grouped - low) / scale.clamp_min(torch.finfo(torch.float16).tiny)).round().clamp(0, 15)
    return (q * scale + low).view(n, -1)[:, :k].contiguous()


def _ggml_reference(blocks: torch.Tensor, type: str, n: int, k: int) -> torch.Tensor:
    rows = blocks.view(n * (k // 32), -1)
    scale = rows[:, :2].contiguous().view(torch.float16).float()
    if type == "Q8_0":
        return (rows[:, 2:].view(torch.int8).float() * scale).view(n, k)
    start = 4 if type == "Q4_1" else 2
    minimum = rows[:, 2:4].contiguous().view(torch.float16).float() if type == "Q4_1" else -8 * scale
    nibbles = torch.cat([rows[:, start:] & 15, rows[:, start:] >> 4], dim=1)
    return (nibbles.float() * scale + minimum).view(n, k)
