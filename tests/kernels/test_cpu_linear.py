"""Packed linear layers: native against the dequantised weight in double precision, over odd shapes."""

from __future__ import annotations

import pytest
import torch
from medvllm_kernels import cpu_linear, engine_native
from medvllm_kernels.cpu_linear import FORMATS, embedding, linear, linear_reference, pack, pack_ggml, rounded

native_only = pytest.mark.skipif(engine_native.library() is None, reason=engine_native.status())

SHAPES = [(1, 1), (31, 33), (33, 7), (64, 576), (100, 130), (97, 1031)]
ROWS = [0, 1, 2, 3, 4, 7, 97, 200]  # around the register tiles of 3 and the row blocks of 96


def _weight(n: int, k: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(n * 10007 + k)
    return torch.randn(n, k).to(dtype)


def _taken(x: torch.Tensor, format: str) -> torch.Tensor:
    """x as the products of this format take it."""
    return (rounded(x) if format in ("int8", "int4") else x).double()


def _relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.double() - expected).abs().max() / expected.abs().max()) if expected.numel() else 0.0


@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("format", FORMATS)
def test_products_equal_those_of_the_dequantised_weight(format: str, n: int, k: int) -> None:
    packed = pack(_weight(n, k), format=format)
    weight, bias = packed.dequantize().double(), torch.randn(n)
    for rows in ROWS:
        x = torch.randn(rows, k)
        expected = _taken(x, format) @ weight.T + bias
        assert _relative(linear(x, packed, bias), expected) < 2e-6
        assert _relative(linear_reference(x, packed, bias), expected) < 2e-6


@native_only
@pytest.mark.parametrize("format", FORMATS)
def test_a_row_is_the_same_bit_by_bit_in_any_batch_and_number_of_threads(format: str) -> None:
    packed = pack(_weight(257, 333), format=format)
    x = torch.randn(200, 333)
    alone = torch.cat([linear(row[None], packed, threads=1) for row in x])
    for rows in ROWS:
        for threads in (1, 2, 5):
            assert torch.equal(linear(x[:rows], packed, threads=threads), alone[:rows])


def test_activations_lose_no_more_than_eight_bits_must() -> None:
    x = torch.randn(50, 1031)
    x[3], x[4, 32:64], x[5, 7] = 0.0, 0.0, 100.0  # one value cannot spoil more than its own block
    assert float((rounded(x) - x).norm() / x.norm()) < 0.009
    assert float((rounded(x) - x)[5, 32:].abs().max()) < 0.02
    assert torch.equal(rounded(x)[3:5, 32:64], torch.zeros(2, 32))


@native_only
@pytest.mark.parametrize("format", ["int8", "int4"])
def test_the_largest_products_do_not_overflow(format: str) -> None:
    weight = torch.tensor([[-1.0], [1.0]]).repeat(17, 96)
    weight[:, ::32] = -weight[:, 1::32]  # both ends of a group's range
    packed = pack(weight, format=format)
    for x in (torch.ones(3, 96), -torch.ones(3, 96), weight[:3]):
        expected = x.double() @ packed.dequantize().double().T
        assert _relative(linear(x, packed), expected) < 2e-6


@pytest.mark.parametrize("format", ["int8", "int4"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_does_not_become_one(format: str, value: float) -> None:
    packed = pack(_weight(40, 100), format=format)
    x = torch.randn(6, 100)
    clean = linear(x, packed)
    x[2, 70] = value
    for product in (linear, linear_reference):
        found = product(x, packed)
        assert bool(found[2].isnan().all())
        others = [0, 1, 3, 4, 5]
        torch.testing.assert_close(found[others], clean[others], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_activations_near_the_smallest_number_are_nothing(format: str) -> None:
    packed = pack(_weight(40, 64), format=format)
    x = torch.randn(2, 64)
    x[:, 32:] = torch.linspace(-1e-40, 1e-40, 32)
    cleared = x.clone()
    cleared[:, 32:] = 0
    for product in (linear, linear_reference):
        torch.testing.assert_close(product(x, packed), product(cleared, packed), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("format", "group", "bound"),
    [("fp32", None, 0.0), ("bf16", None, 2.0**-8), ("int8", None, 0.01), ("int8", 32, 0.006), ("int4", None, 0.085)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packing_loses_no_more_than_its_format_must(
    format: str, group: int | None, bound: float, dtype: torch.dtype
) -> None:
    weight = _weight(70, 259, dtype).float()
    lost = pack(weight.to(dtype), format=format, group=group).dequantize() - weight
    assert float(lost.norm() / weight.norm()) <= bound


@native_only
def test_int4_weights_that_were_quantised_before_come_back_exactly() -> None:
    torch.manual_seed(0)
    scale = (torch.rand(40, 3, 1) / 8).half().float()
    minimum = (torch.randn(40, 3, 1) / 8).half().float()
    nibbles = torch.randint(0, 16, (40, 3, 32)).float()
    nibbles[..., 0], nibbles[..., 1] = 0, 15
    weight = (nibbles * scale + minimum).view(40, 96)
    torch.testing.assert_close(pack(weight, format="int4").dequantize(), weight, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(("type", "header", "body"), [("Q4_0", 1, 16), ("Q4_1", 2, 16), ("Q8_0", 1, 32)])
def test_gguf_blocks_are_packed_without_loss(type: str, header: int, body: int) -> None:
    torch.manual_seed(1)
    n, k = 37, 96
    halves = (torch.randn(n * k // 32, header) / 16).half()
    blocks = torch.cat([halves.view(torch.uint8), torch.randint(0, 256, (n * k // 32, body)).to(torch.uint8)], dim=1)
    packed = pack_ggml(blocks, type=type, n=n, k=k)
    expected = cpu_linear._ggml_reference(blocks, type, n, k)
    torch.testing.assert_close(packed.dequantize(), expected, rtol=1e-6, atol=1e-7)
    x = torch.randn(5, k)
    assert _relative(linear(x, packed), rounded(x).double() @ expected.double().T) < 2e-6


@pytest.mark.parametrize("format", FORMATS)
def test_bfloat16_activations_are_rounded_once_at_the_end(format: str) -> None:
    packed = pack(_weight(65, 200), format=format)
    x = torch.randn(6, 200).bfloat16()
    assert torch.equal(linear(x, packed), linear(x.float(), packed).bfloat16())
    out = torch.empty(6, 65)
    assert linear(x, packed, out=out) is out
    assert torch.equal(out, linear(x.float(), packed))


def test_strided_rows_and_leading_dimensions() -> None:
    packed = pack(_weight(40, 48), format="bf16")
    x = torch.randn(4, 3, 2 * 48)
    expected = linear(x[..., :48].contiguous().view(12, 48), packed).view(4, 3, 40)
    assert torch.equal(linear(x[..., :48], packed), expected)
    assert torch.equal(linear(x.view(12, 96)[:, :48], packed), expected.view(12, 40))


@pytest.mark.parametrize("format", FORMATS)
def test_embedding_gathers_rows_of_the_packed_weight(format: str) -> None:
    packed = pack(_weight(100, 70), format=format)
    ids = torch.tensor([0, 99, 31, 32, 31])
    assert torch.equal(embedding(ids, packed), packed.dequantize()[ids])
    assert embedding(torch.empty(0, dtype=torch.int64), packed).shape == (0, 70)
    with pytest.raises(ValueError, match=r"ids must be in \[0, 100\), got 5 to 100"):
        embedding(torch.tensor([100, 5]), packed)


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_constant_and_zero_groups(format: str) -> None:
    weight = torch.zeros(33, 64)
    weight[1] = 0.5
    packed = pack(weight, format=format)
    torch.testing.assert_close(packed.dequantize(), weight, rtol=1e-3, atol=0.0)


def test_what_does_not_fit_is_refused_with_the_remedy() -> None:
    packed = pack(_weight(8, 16), format="bf16")
    with pytest.raises(ValueError, match=r"x must be float32 or bfloat16 \(…, 16\), got torch.float32 \(2, 15\)"):
        linear(torch.randn(2, 15), packed)
    with pytest.raises(ValueError, match=r"bias must be contiguous float32 \(8,\)"):
        linear(torch.randn(2, 16), packed, torch.randn(9))
    with pytest.raises(ValueError, match="format must be one of fp32, bf16, int8, int4, got fp8"):
        pack(torch.randn(2, 2), format="fp8")
    with pytest.raises(ValueError, match="group must be a multiple of 32 of at most 256, got 512"):
        pack(torch.randn(2, 512), format="int4", group=512)
    with pytest.raises(ValueError, match="group must be a multiple of 32, got 48"):
        pack(torch.randn(2, 96), format="int8", group=48)
    with pytest.raises(ValueError, match="bf16 weights have no scales"):
        pack(torch.randn(2, 2), format="bf16", group=32)
    with pytest.raises(ValueError, match="cast or move it"):
        pack(torch.zeros(2, 2, dtype=torch.float16))
    with pytest.raises(ValueError, match="dequantise it and call pack"):
        pack_ggml(torch.zeros(1, dtype=torch.uint8), type="Q6_K", n=1, k=32)
    with pytest.raises(ValueError, match=r"needs k a multiple of 32 and 20 uint8 values, got 19"):
        pack_ggml(torch.zeros(19, dtype=torch.uint8), type="Q4_1", n=1, k=32)
