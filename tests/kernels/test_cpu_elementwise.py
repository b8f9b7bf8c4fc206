"""Norms, activations, rotary embedding: native against the torch references, over odd shapes and dtypes."""

from __future__ import annotations

import pytest
import torch
from medvllm_kernels import cpu_elementwise as kernels

SHAPES = [(0, 8), (1, 1), (3, 7), (2, 576), (33, 100), (2, 5, 24)]
DTYPES = [torch.float32, torch.bfloat16]


def _close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.dtype == expected.dtype
    tolerance = 3e-6 if actual.dtype == torch.float32 else 8e-3  # one unit in the last place
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, residual = 3 * torch.randn(2, *shape).to(dtype)
    weight = torch.randn(shape[-1])
    for given in (weight, None):
        _close(kernels.rms_norm(x, given, 1e-5), kernels.rms_norm_reference(x, given, 1e-5))
    actual = kernels.rms_norm(x, weight, 1e-6, residual, offset=1.0, threads=2)
    expected = kernels.rms_norm_reference(x, weight, 1e-6, residual, offset=1.0)
    _close(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = (torch.randn(shape) + 5).to(dtype)
    weight, bias = torch.randn(2, shape[-1])
    for parameters in ((weight, bias), (weight, None), (None, None)):
        expected = kernels.layer_norm_reference(x, *parameters, 1e-5)
        torch.testing.assert_close(kernels.layer_norm(x, *parameters, 1e-5), expected, rtol=8e-3, atol=2e-5)


@pytest.mark.parametrize("activation", kernels.ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations(dtype: torch.dtype, activation: str) -> None:
    torch.manual_seed(0)
    for shape in SHAPES:
        x = 4 * torch.randn(shape).to(dtype)
        # torch's own gelu loses 2e-6 where 1 + erf cancels
        tolerance = {"rtol": 3e-6, "atol": 5e-6} if dtype == torch.float32 else {"rtol": 8e-3, "atol": 2e-5}
        torch.testing.assert_close(
            kernels.activate(x, activation), kernels.activate_reference(x, activation), **tolerance
        )
        if shape[-1] % 2 == 0:
            expected = kernels.act_and_mul_reference(x, activation)
            tolerance["atol"] *= 16
            torch.testing.assert_close(kernels.act_and_mul(x, activation, threads=2), expected, **tolerance)


@pytest.mark.parametrize("activation", kernels.ACTIVATIONS)
def test_activations_over_their_range(activation: str) -> None:
    x = torch.cat([torch.linspace(-100, 100, 200001), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 3e38, -3e38])])
    expected = {
        "silu": torch.nn.functional.silu(x.double()),
        "gelu": torch.nn.functional.gelu(x.double()),
        "gelu_tanh": torch.nn.functional.gelu(x.double(), approximate="tanh"),
        "relu": x.double().relu(),
    }[activation]
    actual = kernels.activate(x, activation).double()
    kept = torch.isfinite(expected)  # the cube of 3e38 is not
    torch.testing.assert_close(actual[kept], expected[kept], rtol=1e-6, atol=5e-6)


@pytest.mark.parametrize("rotary_dim", [2, 6, 32, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rotary_turns_slices_of_a_fused_projection_in_place(dtype: torch.dtype, rotary_dim: int) -> None:
    torch.manual_seed(0)
    table = kernels.rotary_cos_sin(10000 ** -(torch.arange(0, rotary_dim, 2) / rotary_dim), 50)
    positions = torch.tensor([0, 49, 3, 3, 17])
    fused = torch.randn(5, 15, 64).to(dtype)
    expected = fused.clone()
    kernels.rotary_reference(expected[:, :9], expected[:, 9:12], positions, table)
    q, _ = kernels.rotary(fused[:, :9], fused[:, 9:12], positions, table, threads=2)
    assert q.data_ptr() == fused.data_ptr()
    _close(fused, expected)
    cos, sin = torch.cos(positions[1].float()), torch.sin(positions[1].float())
    assert torch.allclose(table[49, 0], cos)
    assert torch.allclose(table[49, rotary_dim // 2], sin)


def test_greedy_takes_the_first_of_the_largest() -> None:
    logits = torch.randn(5, 1003)
    assert torch.equal(kernels.greedy(logits), logits.argmax(-1))
    tied = torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0], [float("-inf")] * 4 + [-9.0]])
    assert kernels.greedy(tied).tolist() == [1, 4]
    assert kernels.greedy(torch.empty(0, 9)).shape == (0,)


def test_what_does_not_fit_is_refused() -> None:
    x = torch.randn(2, 8)
    with pytest.raises(ValueError, match=r"weight must be contiguous float32 \(8,\)"):
        kernels.rms_norm(x, torch.ones(7), 1e-5)
    with pytest.raises(ValueError, match="x must be contiguous float32 or bfloat16"):
        kernels.layer_norm(x.T, None, None, 1e-5)
    with pytest.raises(ValueError, match="activation must be one of silu, gelu_tanh, gelu, relu, got swish"):
        kernels.activate(x, "swish")
    with pytest.raises(ValueError, match="must be even, got 7"):
        kernels.act_and_mul(torch.randn(2, 7), "silu")
    heads, table = torch.randn(1, 2, 8), torch.randn(4, 8)
    with pytest.raises(ValueError, match=r"positions must be in \[0, 4\), got 4 to 4"):
        kernels.rotary(heads, heads.clone(), torch.tensor([4]), table)
