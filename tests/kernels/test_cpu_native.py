"""The engine's library: how it is found, and that its instruction sets agree."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from medvllm_kernels import cpu_attention, cpu_elementwise, cpu_linear, engine_native

LIBRARY = engine_native.library()
native_only = pytest.mark.skipif(LIBRARY is None, reason=engine_native.status())


@pytest.fixture(params=["portable", "avx2", "avx512", "avx512vnni"])
def other_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this processor has, in place of the one in use."""
    before = engine_native.instruction_set()
    if LIBRARY is None or before is None or not LIBRARY.mv_engine_choose_isa(request.param.encode()):
        pytest.skip(f"this processor has no {request.param}, or the library is not there")
    yield request.param
    LIBRARY.mv_engine_choose_isa(before.encode())


@pytest.mark.parametrize("format", cpu_linear.FORMATS)
def test_linear_in_every_instruction_set(other_set: str, format: str) -> None:
    for n, k in ((1, 1), (33, 7), (70, 259), (40, 1536)):
        packed = cpu_linear.pack(torch.randn(n, k), format=format)
        for rows in (1, 2, 4, 5, 13, 98):
            x = torch.randn(rows, k)
            taken = cpu_linear.rounded(x) if format in ("int8", "int4") else x
            expected = taken.double() @ packed.dequantize().double().T
            bound = 4e-6 * float(expected.abs().max()) + 1e-6
            assert float((cpu_linear.linear(x, packed) - expected).abs().max()) < bound
            assert torch.equal(cpu_linear.linear(x[-1:], packed), cpu_linear.linear(x, packed)[-1:])


@pytest.mark.parametrize("head_dim", [8, 24, 64])
@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.bfloat16])
def test_attention_in_every_instruction_set(other_set: str, cache_dtype: torch.dtype, head_dim: int) -> None:
    caches = torch.randn(2, 20, 16, 2, head_dim).to(cache_dtype)
    q = torch.randn(41, 6, head_dim)
    rest = (
        torch.arange(20, dtype=torch.int32).flip(0)[None],
        torch.tensor([300], dtype=torch.int32),
        torch.tensor([0, 41], dtype=torch.int32),
        head_dim**-0.5,
    )
    for options in ({}, {"window": 33, "softcap": 4.0}):
        expected = cpu_attention.paged_attention_reference(q, *caches, *rest, **options)
        actual = cpu_attention.paged_attention(q, *caches, *rest, **options)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_elementwise_in_every_instruction_set(other_set: str, dtype: torch.dtype) -> None:
    x = 4 * torch.randn(3, 74).to(dtype)
    weight = torch.randn(74)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 8e-3, "atol": 1e-4}
    for actual, expected in (
        (cpu_elementwise.rms_norm(x, weight, 1e-5), cpu_elementwise.rms_norm_reference(x, weight, 1e-5)),
        (
            cpu_elementwise.layer_norm(x, weight, weight, 1e-5),
            cpu_elementwise.layer_norm_reference(x, weight, weight, 1e-5),
        ),
        *(
            (cpu_elementwise.activate(x, name), cpu_elementwise.activate_reference(x, name))
            for name in cpu_elementwise.ACTIVATIONS
        ),
    ):
        torch.testing.assert_close(actual, expected, **tolerance)
    assert torch.equal(cpu_elementwise.greedy(x.float()), x.float().argmax(-1))


@native_only
@pytest.mark.parametrize("bits", [0x0001, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0x8001, 0xC400])
def test_half_precision_scales_are_read_exactly(other_set: str, bits: int) -> None:
    blocks = torch.zeros(1, 20, dtype=torch.uint8)
    blocks[0, 2:4] = torch.tensor([bits & 255, bits >> 8], dtype=torch.uint8)
    expected = float(blocks[0, 2:4].clone().view(torch.float16))
    packed = cpu_linear.pack_ggml(blocks, type="Q4_1", n=1, k=32)
    assert packed.dequantize().unique().tolist() == [expected]
    one = torch.zeros(1, 32)
    one[0, 0] = 1.0
    assert cpu_linear.linear(one, packed).item() == expected


def _status(**variables: str) -> subprocess.CompletedProcess[str]:
    code = "from medvllm_kernels import engine_native as e; print(e.instruction_set(), '|', e.status())"
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_torch_takes_over_where_native_code_is_disabled() -> None:
    assert _status(MEDVLLM_DISABLE_NATIVE="1").stdout == "None | torch (MEDVLLM_DISABLE_NATIVE is set)\n"


def test_a_library_that_is_named_must_be_usable() -> None:
    done = _status(MEDVLLM_NATIVE_ENGINE_LIB="/nowhere/lib.so")
    assert "MEDVLLM_NATIVE_ENGINE_LIB=/nowhere/lib.so cannot be used: no such file" in done.stderr


@native_only
def test_the_instruction_set_can_be_chosen() -> None:
    assert _status(MEDVLLM_NATIVE_ISA="portable").stdout.startswith("portable | native (")
    refused = _status(MEDVLLM_NATIVE_ISA="sse9").stderr
    assert "MEDVLLM_NATIVE_ISA must be one of portable, avx2, avx512, avx512vnni, got sse9" in refused


_WITHOUT_LIBRARY = """
import torch
from medvllm_kernels import cpu_attention, cpu_elementwise, cpu_linear, engine_native
assert engine_native.library() is None
weight = torch.randn(5, 40)
for format in cpu_linear.FORMATS:
    packed = cpu_linear.pack(weight, format=format)
    assert (packed.dequantize() - weight).norm() / weight.norm() < 0.09
    taken = cpu_linear.rounded(weight) if format in ("int8", "int4") else weight
    torch.testing.assert_close(cpu_linear.linear(weight, packed), taken @ packed.dequantize().T)
assert cpu_elementwise.greedy(weight).tolist() == weight.argmax(-1).tolist()
cpu_elementwise.act_and_mul(weight, "silu"), cpu_elementwise.rms_norm(weight, None, 1e-5)
caches = torch.zeros(2, 1, 4, 1, 8)
k = torch.randn(3, 1, 8)
cpu_attention.store_kv(k, k, *caches, torch.tensor([0, 1, 2]))
numbers = [torch.tensor(v, dtype=torch.int32) for v in ([[0]], [3], [0, 3])]
print(cpu_attention.paged_attention(k, *caches, *numbers, 1.0)[0].equal(k[0]))
"""


def test_everything_works_without_the_library() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MEDVLLM_DISABLE_NATIVE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_LIBRARY], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


@native_only
def test_a_forked_process_computes_on() -> None:
    packed = cpu_linear.pack(torch.randn(300, 64), format="bf16")
    x = torch.randn(4, 64)
    expected = cpu_linear.linear(x, packed, threads=2)
    child = os.fork()
    if child == 0:
        same = torch.equal(cpu_linear.linear(x, packed, threads=2), expected)
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@native_only
def test_a_profiler_sees_the_native_operators() -> None:
    packed = cpu_linear.pack(torch.randn(8, 16), format="fp32")
    with torch.profiler.profile() as profile:
        cpu_linear.linear(torch.randn(2, 16), packed)
    assert "medvllm::linear" in {event.key for event in profile.key_averages()}
