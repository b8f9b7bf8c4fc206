"""The fused step: equal bit by bit to the same layers through the single kernels, in any batch and any chunks."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from medvllm_kernels import engine_native
from medvllm_kernels.cpu_decoder import DecoderConfig, DecoderLayer, DecoderStep, decoder_step_reference
from medvllm_kernels.cpu_elementwise import rotary_cos_sin
from medvllm_kernels.cpu_linear import FORMATS, PackedLinear, linear_reference, pack

native_only = pytest.mark.skipif(engine_native.library() is None, reason=engine_native.status())

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM = 72, 100, 6, 2, 24
CONFIG = DecoderConfig(
    hidden_size=HIDDEN,
    intermediate_size=INTERMEDIATE,
    num_heads=HEADS,
    num_kv_heads=KV_HEADS,
    head_dim=HEAD_DIM,
    eps=1e-5,
    scale=HEAD_DIM**-0.5,
)
GEMMA = dataclasses.replace(CONFIG, activation="gelu_tanh", norm_offset=1.0, softcap=30.0)


def make_step(
    kind: str = "llama", format: str = "fp32", *, layers: int = 2, cache_dtype: torch.dtype = torch.float32
) -> DecoderStep:
    torch.manual_seed(3)
    qkv = (HEADS + 2 * KV_HEADS) * HEAD_DIM

    def weight(n: int, k: int) -> PackedLinear:
        return pack(torch.randn(n, k) * k**-0.5, format=format)

    def vector(size: int, wanted: bool = True) -> torch.Tensor | None:
        return torch.rand(size) + 0.5 if wanted else None

    def layer(index: int) -> DecoderLayer:
        norm, mlp_norm = vector(HIDDEN), vector(HIDDEN)
        assert norm is not None
        assert mlp_norm is not None
        return DecoderLayer(
            qkv=weight(qkv, HIDDEN),
            o=weight(HIDDEN, HEADS * HEAD_DIM),
            gate_up=weight(2 * INTERMEDIATE, HIDDEN),
            down=weight(HIDDEN, INTERMEDIATE),
            input_norm=norm,
            mlp_input_norm=mlp_norm,
            k_cache=torch.zeros(40, 16, KV_HEADS, HEAD_DIM, dtype=cache_dtype),
            v_cache=torch.zeros(40, 16, KV_HEADS, HEAD_DIM, dtype=cache_dtype),
            cos_sin=rotary_cos_sin(10000.0 ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM), 400),
            qkv_bias=vector(qkv, kind == "qwen2"),
            o_bias=vector(HIDDEN, kind == "qwen2"),
            attention_output_norm=vector(HIDDEN, kind == "gemma"),
            mlp_output_norm=vector(HIDDEN, kind == "gemma"),
            q_norm=vector(HEAD_DIM, kind in ("gemma", "qwen3")),
            k_norm=vector(HEAD_DIM, kind in ("gemma", "qwen3")),
            window=20 if kind in ("gemma", "mistral") and index == 0 else None,
        )

    final = vector(HIDDEN)
    assert final is not None
    return DecoderStep(GEMMA if kind == "gemma" else CONFIG, [layer(i) for i in range(layers)], final)


def batch(sequences: list[tuple[int, int, int]]) -> tuple[torch.Tensor, ...]:
    """(first block, context, new tokens) of each sequence → positions, slots, tables, context_lens, cu_seqlens_q."""
    tables = torch.stack([torch.arange(first, first + 12) for first, _, _ in sequences]).int()
    positions = torch.cat([torch.arange(context - new, context) for _, context, new in sequences])
    slots = torch.cat([torch.arange(context - new, context) + 16 * first for first, context, new in sequences])
    contexts = torch.tensor([context for _, context, _ in sequences], dtype=torch.int32)
    bounds = torch.tensor([0, *itertools.accumulate(new for _, _, new in sequences)], dtype=torch.int32)
    return positions, slots, tables, contexts, bounds


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma"])
def test_equals_the_layers_one_by_one(kind: str, format: str, cache_dtype: torch.dtype) -> None:
    sequences = [(0, 40, 40), (12, 5, 5), (24, 1, 1)]
    x = torch.randn(46, HIDDEN)
    fused, single = (make_step(kind, format, cache_dtype=cache_dtype) for _ in range(2))
    for given in (sequences, [(0, 41, 1), (12, 9, 4), (24, 2, 1)]):
        arguments = batch(given)
        tokens = arguments[0].numel()
        actual = fused(x[:tokens].clone(), *arguments, threads=2)
        expected = decoder_step_reference(single, x[:tokens].clone(), *arguments, threads=1)
        assert torch.equal(actual, expected)
    assert torch.equal(fused.layers[1].v_cache, single.layers[1].v_cache)


def test_equals_a_model_written_in_plain_torch() -> None:
    step = make_step()
    tokens = 37
    x = torch.randn(tokens, HIDDEN)
    actual = step(x.clone(), *batch([(3, tokens, tokens)]))

    def norm(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(values, (HIDDEN,), weight, CONFIG.eps)

    for layer in step.layers:
        q, k, v = (
            linear_reference(norm(x, layer.input_norm), layer.qkv)
            .view(tokens, -1, HEAD_DIM)
            .transpose(0, 1)
            .split([HEADS, KV_HEADS, KV_HEADS])
        )
        cos, sin = (part.repeat(1, 2) for part in layer.cos_sin[:tokens].chunk(2, dim=-1))
        q, k = (t * cos + torch.cat([-t.chunk(2, -1)[1], t.chunk(2, -1)[0]], -1) * sin for t in (q, k))
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + linear_reference(attended.transpose(0, 1).reshape(tokens, -1), layer.o)
        gate, up = linear_reference(norm(x, layer.mlp_input_norm), layer.gate_up).chunk(2, -1)
        x = x + linear_reference(torch.nn.functional.silu(gate) * up, layer.down)
    torch.testing.assert_close(actual, norm(x, step.final_norm), rtol=1e-4, atol=1e-4)


@native_only
@pytest.mark.parametrize("format", ["bf16", "int4"])
def test_a_request_gives_the_same_bits_whatever_is_in_the_batch(format: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(150, HIDDEN)
    whole = make_step(format=format)(x.clone(), *batch([(0, 150, 150)]), threads=1)
    step = make_step(format=format)
    chunks = []
    for begin, end in [(0, 64), (64, 65), (65, 149), (149, 150)]:
        others = [(12, 30, 30), (24, 1, 1)]
        mixed = torch.cat([x[begin:end], torch.randn(31, HIDDEN)])
        chunks.append(step(mixed, *batch([(0, end, end - begin), *others]), threads=2)[: end - begin])
    assert torch.equal(torch.cat(chunks), whole)


def test_no_tokens() -> None:
    step = make_step()
    empty = torch.empty(0, HIDDEN)
    assert step(empty, *batch([(0, 5, 0)])).shape == (0, HIDDEN)


def test_what_does_not_fit_is_refused() -> None:
    step = make_step()
    arguments = batch([(0, 2, 2)])
    with pytest.raises(ValueError, match=r"x must be contiguous float32 \(tokens, 72\)"):
        step(torch.randn(2, 71), *arguments)
    with pytest.raises(ValueError, match=r"positions must be in \[0, 400\)"):
        step(torch.randn(2, HIDDEN), arguments[0] + 399, *arguments[1:])
    with pytest.raises(ValueError, match=r"slot_mapping names slot 640 of a cache of 640"):
        step(torch.randn(2, HIDDEN), arguments[0], arguments[1] + 639, *arguments[2:])
    layer = dataclasses.replace(step.layers[0], down=step.layers[0].o)
    with pytest.raises(ValueError, match=r"layer 0: down must be \(72, 100\), got \(72, 144\)"):
        DecoderStep(CONFIG, [layer], step.final_norm)
