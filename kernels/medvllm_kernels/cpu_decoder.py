"""All layers of a Llama-like model in one native call.

Each layer is norm → qkv → rotary → store → attention → o → norm → gate-up → activation → down: one call per step
instead of ten per layer, over packed weights (cpu_linear says how their products are computed). How a model plugs in:

    layers = [DecoderLayer(
        qkv=pack(torch.cat([q_proj, k_proj, v_proj])), o=pack(o_proj), gate_up=pack(torch.cat([gate_proj, up_proj])),
        down=pack(down_proj), input_norm=…, mlp_input_norm=…,    # post_attention_layernorm in Llama's naming
        k_cache=k[i], v_cache=v[i], cos_sin=rotary_cos_sin(…)) for i in …]
    step = DecoderStep(DecoderConfig(…), layers, final_norm)     # once; keeps the tensors alive
    x = embedding(input_ids, packed_head)                        # (tokens, hidden) float, consumed by the step
    hidden = step(x, positions, slot_mapping, block_tables, context_lens, cu_seqlens_q)
    logits = linear(hidden[last], packed_head)

It covers Llama, Mistral (window), Qwen2 (qkv_bias), Qwen3 (q_norm, k_norm) and Gemma 3 (output norms, norm_offset=1,
activation="gelu_tanh", window and cos_sin per layer). Decoding, prefill and chunks of it may be mixed in one call.
`decoder_step_reference` is the same step by step through the other modules' functions.
"""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Sequence

import torch

from medvllm_kernels import cpu_attention, cpu_elementwise, cpu_linear, engine_native
from medvllm_kernels.cpu_linear import NativeLinear, PackedLinear

__all__ = ["DecoderConfig", "DecoderLayer", "DecoderStep", "decoder_step_reference"]

_DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Sizes of a model."""

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float
    scale: float  # of the attention scores, as a rule head_dim ** -0.5
    activation: str = "silu"
    norm_offset: float = 0.0  # added to the weights of all norms: 1 for Gemma
    softcap: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DecoderLayer:
    """One layer: packed weights, contiguous float32 vectors, and its part of the cache.

    qkv is (heads and kv heads twice, head_dim; hidden): queries, keys, values; gate_up (2 intermediate, hidden).
    Caches are (num_blocks, block_size, kv_heads, head_dim) float32 or bfloat16, the same strides in all layers.
    """

    qkv: PackedLinear
    o: PackedLinear
    gate_up: PackedLinear
    down: PackedLinear
    input_norm: torch.Tensor
    mlp_input_norm: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    cos_sin: torch.Tensor  # (positions, rotary_dim), of cpu_elementwise.rotary_cos_sin
    qkv_bias: torch.Tensor | None = None
    o_bias: torch.Tensor | None = None
    attention_output_norm: torch.Tensor | None = None
    mlp_output_norm: torch.Tensor | None = None
    q_norm: torch.Tensor | None = None
    k_norm: torch.Tensor | None = None
    window: int | None = None


class _NativeLayer(ctypes.Structure):
    """struct DecoderLayer of decoder.h."""

    _fields_ = [
        *((name, NativeLinear) for name in ("qkv", "o", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("input_norm", "attention_output_norm", "mlp_input_norm")),
        *((name, ctypes.c_void_p) for name in ("mlp_output_norm", "q_norm", "k_norm", "cos_sin")),
        *((name, ctypes.c_void_p) for name in ("k_cache", "v_cache")),
        ("window", ctypes.c_int64),
    ]


class _NativeDecoder(ctypes.Structure):
    """struct Decoder of decoder.h."""

    _fields_ = [
        ("layers", ctypes.c_void_p),
        ("final_norm", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("layer_count", "hidden", "intermediate", "query_heads", "kv_heads")),
        *((name, ctypes.c_int64) for name in ("head_dim", "rotary_dim", "block_size", "block_stride", "slot_stride")),
        *((name, ctypes.c_int64) for name in ("head_stride", "cache_dtype", "activation")),
        *((name, ctypes.c_float) for name in ("eps", "norm_offset", "scale", "softcap")),
    ]


class _NativeBatch(ctypes.Structure):
    """struct DecoderBatch of decoder.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "y", "positions", "slots", "block_table", "context_lens")),
        ("cu_seqlens_q", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("table_stride", "sequences", "tokens")),
    ]


class DecoderStep:
    """The layers, ready to run. Raises ValueError where a tensor does not fit the sizes."""

    def __init__(self, config: DecoderConfig, layers: Sequence[DecoderLayer], final_norm: torch.Tensor) -> None:
        self.config = config
        self.layers = tuple(layers)
        self.final_norm = final_norm
        for index, layer in enumerate(self.layers):
            _check_layer(config, index, layer, self.layers[0])
        _check_vector("final_norm", final_norm, config.hidden_size)
        self._native: _NativeDecoder | None = None
        library = engine_native.library()
        fits = config.head_dim % 8 == 0 and config.head_dim <= cpu_attention.MAX_HEAD_DIM
        if library is not None and fits and self.layers:
            structs = [struct for layer in self.layers if (struct := _native_layer(layer)) is not None]
            if len(structs) == len(self.layers):
                self._run = library.mv_engine_decoder
                self._layer_structs = (_NativeLayer * len(structs))(*structs)
                self._native = self._native_decoder()

    @property
    def fused(self) -> bool:
        """Whether the native step is in use."""
        return self._native is not None

    def __call__(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        slot_mapping: torch.Tensor,
        block_tables: torch.Tensor,
        context_lens: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        *,
        threads: int | None = None,
    ) -> torch.Tensor:
        """(tokens, hidden) float embeddings → (tokens, hidden) after the last norm; x is overwritten.

        positions (tokens,) int64, slot_mapping (tokens,) int32 or int64, and the rest as `paged_attention` takes them.
        """
        if self._native is None:
            return decoder_step_reference(
                self, x, positions, slot_mapping, block_tables, context_lens, cu_seqlens_q, threads=threads
            )
        layer = self.layers[0]
        tokens = x.shape[0]
        if x.shape != (tokens, self.config.hidden_size) or x.dtype != torch.float32 or not x.is_contiguous():
            raise ValueError(
                f"x must be contiguous float32 (tokens, {self.config.hidden_size}), got {x.dtype} {tuple(x.shape)}"
            )
        cpu_elementwise.check_positions(positions, tokens, layer.cos_sin)
        cpu_attention.check_slots(slot_mapping, tokens, layer.k_cache)
        cpu_attention.check_batch(tokens, layer.k_cache, block_tables, context_lens, cu_seqlens_q)
        slots = slot_mapping.to(torch.int64).contiguous()
        y = torch.empty_like(x)
        batch = _NativeBatch(
            x.data_ptr(),
            y.data_ptr(),
            positions.data_ptr(),
            slots.data_ptr(),
            block_tables.data_ptr(),
            context_lens.data_ptr(),
            cu_seqlens_q.data_ptr(),
            block_tables.stride(0),
            context_lens.numel(),
            tokens,
        )
        self._run(ctypes.byref(self._native), ctypes.byref(batch), threads or engine_native.threads())
        return y

    def _native_decoder(self) -> _NativeDecoder:
        config, layer = self.config, self.layers[0]
        return _NativeDecoder(
            ctypes.addressof(self._layer_structs),
            self.final_norm.data_ptr(),
            len(self.layers),
            config.hidden_size,
            config.intermediate_size,
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            layer.cos_sin.shape[1],
            layer.k_cache.shape[1],
            *layer.k_cache.stride()[:3],
            _DTYPE_CODES[layer.k_cache.dtype],
            cpu_elementwise.ACTIVATIONS[config.activation],
            config.eps,
            config.norm_offset,
            config.scale,
            config.softcap or 0.0,
        )


def decoder_step_reference(
    step: DecoderStep,
    x: torch.Tensor,
    positions: torch.Tensor,
    slot_mapping: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    *,
    threads: int | None = None,
) -> torch.Tensor:
    """The step through the functions of cpu_linear, cpu_attention and cpu_elementwise, one by one."""
    config = step.config
    heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim

    def norm(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        normed = cpu_elementwise.rms_norm(values, weight, config.eps, offset=config.norm_offset, threads=threads)
        assert isinstance(normed, torch.Tensor)  # a pair only with a residual
        return normed

    for layer in step.layers:
        qkv = cpu_linear.linear(norm(x, layer.input_norm), layer.qkv, layer.qkv_bias, threads=threads)
        q, k, v = qkv.view(-1, heads + 2 * kv_heads, dim).split([heads, kv_heads, kv_heads], dim=1)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = norm(q.contiguous(), layer.q_norm), norm(k.contiguous(), layer.k_norm)
        q, k = cpu_elementwise.rotary(q, k, positions, layer.cos_sin, threads=threads)
        cpu_attention.store_kv(k, v, layer.k_cache, layer.v_cache, slot_mapping, threads=threads)
        attended = cpu_attention.paged_attention(
            q,
            layer.k_cache,
            layer.v_cache,
            block_tables,
            context_lens,
            cu_seqlens_q,
            config.scale,
            window=layer.window,
            softcap=config.softcap,
            out=torch.empty(q.shape),
            threads=threads,
        )
        branch = cpu_linear.linear(attended.view(-1, heads * dim), layer.o, layer.o_bias, threads=threads)
        x = x + (branch if layer.attention_output_norm is None else norm(branch, layer.attention_output_norm))
        gate_up = cpu_linear.linear(norm(x, layer.mlp_input_norm), layer.gate_up, threads=threads)
        active = cpu_elementwise.act_and_mul(gate_up, config.activation, threads=threads)
        branch = cpu_linear.linear(active, layer.down, threads=threads)
        x = x + (branch if layer.mlp_output_norm is None else norm(branch, layer.mlp_output_norm))
    return norm(x, step.final_norm)


def _native_layer(layer: DecoderLayer) -> _NativeLayer | None:
    """The layer as the library takes it; None where a weight was packed without the library."""

    def pointer(tensor: torch.Tensor | None) -> int | None:
        return None if tensor is None else tensor.data_ptr()

    qkv, o, gate_up, down = layer.qkv.native, layer.o.native, layer.gate_up.native, layer.down.native
    if qkv is None or o is None or gate_up is None or down is None:
        return None
    return _NativeLayer(
        qkv if layer.qkv_bias is None else cpu_linear.with_bias(qkv, layer.qkv_bias),
        o if layer.o_bias is None else cpu_linear.with_bias(o, layer.o_bias),
        gate_up,
        down,
        pointer(layer.input_norm),
        pointer(layer.attention_output_norm),
        pointer(layer.mlp_input_norm),
        pointer(layer.mlp_output_norm),
        pointer(layer.q_norm),
        pointer(layer.k_norm),
        pointer(layer.cos_sin),
        pointer(layer.k_cache),
        pointer(layer.v_cache),
        layer.window or 0,
    )


def _check_vector(name: str, tensor: torch.Tensor | None, size: int) -> None:
    if tensor is not None and (tensor.shape != (size,) or tensor.dtype != torch.float32 or not tensor.is_contiguous()):
        raise ValueError(f"{name} must be contiguous float32 ({size},), got {tensor.dtype} {tuple(tensor.shape)}")


def _check_layer(config: DecoderConfig, index: int, layer: DecoderLayer, first: DecoderLayer) -> None:
    hidden, queries = config.hidden_size, config.num_heads * config.head_dim
    qkv = queries + 2 * config.num_kv_heads * config.head_dim
    for name, n, k in (
        ("qkv", qkv, hidden),
        ("o", hidden, queries),
        ("gate_up", 2 * config.intermediate_size, hidden),
        ("down", hidden, config.intermediate_size),
    ):
        packed: PackedLinear = getattr(layer, name)
        if (packed.n, packed.k) != (n, k):
            raise ValueError(f"layer {index}: {name} must be ({n}, {k}), got ({packed.n}, {packed.k})")
    for name in ("input_norm", "mlp_input_norm", "attention_output_norm", "mlp_output_norm", "o_bias"):
        _check_vector(f"layer {index}: {name}", getattr(layer, name), hidden)
    _check_vector(f"layer {index}: qkv_bias", layer.qkv_bias, qkv)
    for name in ("q_norm", "k_norm"):
        _check_vector(f"layer {index}: {name}", getattr(layer, name), config.head_dim)
    if (layer.q_norm is None) != (layer.k_norm is None):
        raise ValueError(f"layer {index}: q_norm and k_norm must be given both or neither")
    shape = (*layer.k_cache.shape[:2], config.num_kv_heads, config.head_dim)
    for cache in (layer.k_cache, layer.v_cache):
        if cache.shape != shape or cache.dtype not in _DTYPE_CODES or cache.dtype != first.k_cache.dtype:
            raise ValueError(f"layer {index}: caches must be {shape} float32 or bfloat16, got {tuple(cache.shape)}")
        if cache.stride() != first.k_cache.stride() or cache.stride(3) != 1 or cache.shape != first.k_cache.shape:
            raise ValueError(f"layer {index}: caches must have the shape and strides of layer 0's")
    cos_sin = layer.cos_sin
    if cos_sin.dtype != torch.float32 or not cos_sin.is_contiguous() or cos_sin.shape != first.cos_sin.shape:
        raise ValueError(f"layer {index}: cos_sin must be contiguous float32 {tuple(first.cos_sin.shape)}")
    if cos_sin.dim() != 2 or cos_sin.shape[1] % 2 or cos_sin.shape[1] > config.head_dim:
        raise ValueError(f"layer {index}: rotary_dim must be even and at most {config.head_dim}, got {cos_sin.shape}")
    if config.activation not in cpu_elementwise.ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(cpu_elementwise.ACTIVATIONS)}, got {config.activation}")
