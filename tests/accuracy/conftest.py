"""Compares operators with their float64 references: on the CPU's fallback, in triton's interpreter, or on a GPU.

The interpreter is chosen for a whole process, by TRITON_INTERPRET=1 before anything imports the kernels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from medvllm_kernels.triton_support import explain, interpreting

if "TEST_TMPDIR" in os.environ:  # under Bazel the home folder is not for writing
    os.environ.setdefault("TRITON_CACHE_DIR", os.path.join(os.environ["TEST_TMPDIR"], "triton"))

TOLERANCES = {
    torch.float32: {"atol": 1e-5, "rtol": 1e-4},
    torch.float16: {"atol": 5e-3, "rtol": 5e-3},
    torch.bfloat16: {"atol": 5e-3, "rtol": 5e-3},
}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    """The device of a kernel's test; skips with the reason where this machine does not have it."""
    from medvllm.utils.device import unavailable

    reason = "the interpreter runs on the CPU" if interpreting() else unavailable(request.param)
    if request.param == "cuda" and reason:
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture(autouse=True)
def _every_operator_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MEDVLLM_ENABLE_TRITON_SOFTMAXV", "MEDVLLM_ENABLE_TRITON_SEP3D"):
        monkeypatch.setenv(name, "1")
    for name in (
        "DISABLE_TRITON",
        "SEP3D_BLOCK_W",
        "SEP3D_WARPS",
        "SEP3D_STAGES",
        "SEP3D_FUSE_BIAS",
        "SEP3D_FUSE_RELU",
    ):
        monkeypatch.delenv(f"MEDVLLM_{name}", raising=False)


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(20)


def _outputs(result: Any) -> list[torch.Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


class Accuracy:
    """accuracy(operator, function, reference, *tensors): outputs and, of float tensors, gradients are as in float64."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.fused = device == "cuda" or interpreting()

    def ran(self, operator: str) -> None:
        """The operator's last call took the path that this machine has."""
        last = explain()[operator]
        assert last["last_backend"] == ("triton" if self.fused else "torch"), last

    def close(self, actual: torch.Tensor, exact: torch.Tensor) -> None:
        """Within the contract's tolerance of its dtype, and of the exact result's shape."""
        assert actual.shape == exact.shape
        torch.testing.assert_close(actual.cpu().double(), exact.cpu().double(), **TOLERANCES[actual.dtype])

    def __call__(
        self,
        operator: str,
        function: Callable[..., Any],
        reference: Callable[..., Any],
        *tensors: torch.Tensor,
        gradients: bool = True,
        frozen: Sequence[int] = (),
    ) -> list[torch.Tensor]:
        """Returns the outputs. Tensors at the positions `frozen` want no gradient."""
        # In 16 bits the fallback's gradients are autograd's own, rounded at every step: not ours to bound.
        gradients = gradients and (self.fused or tensors[0].dtype == torch.float32)
        wanted = [i for i, x in enumerate(tensors) if gradients and x.is_floating_point() and i not in frozen]
        given, exact = [x.to(self.device).detach() for x in tensors], [x.detach() for x in tensors]
        exact = [x.double() if x.is_floating_point() else x for x in exact]
        for i in wanted:
            given[i].requires_grad_()
            exact[i].requires_grad_()
        actual, expected = _outputs(function(*given)), _outputs(reference(*exact))
        self.ran(operator)
        for one, other in zip(actual, expected, strict=True):
            self.close(one.detach(), other.detach())
        if wanted:
            upstream = [torch.randn(x.shape, dtype=torch.float32).to(x.dtype) for x in actual]
            found = torch.autograd.grad(actual, [given[i] for i in wanted], [x.to(self.device) for x in upstream])
            right = torch.autograd.grad(expected, [exact[i] for i in wanted], [x.double() for x in upstream])
            for one, other in zip(found, right, strict=True):
                self.close(one, other)
        return actual


@pytest.fixture
def accuracy(device: str) -> Accuracy:
    """See Accuracy."""
    return Accuracy(device)


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The bits of float32 values rounded to the nearest bfloat16, ties to even."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def _from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _repair_bfloat16() -> None:
    """triton's interpreter keeps bfloat16 as integers, multiplies those in `dot`, and truncates when it rounds."""
    from triton.language import bfloat16
    from triton.runtime import interpreter

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    cast, dot = builder.cast_impl, builder.create_dot

    def widened(tensor: Any) -> Any:
        if tensor.dtype.scalar != bfloat16:
            return tensor
        return handle(_from_bfloat16(tensor.data), interpreter.tl.float32)

    def repaired_cast(self: Any, src: Any, dst_type: Any) -> Any:
        if dst_type.scalar == bfloat16 and src.dtype.scalar != bfloat16:
            return handle(_to_bfloat16(np.asarray(src.data, np.float32)), bfloat16)
        return cast(self, widened(src), dst_type)

    def repaired_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, widened(a), widened(b), *rest)

    for name in ("si_to_fp", "ui_to_fp", "fp_to_si", "fp_to_ui", "fp_ext", "fp_trunc"):
        setattr(builder, f"create_{name}", repaired_cast)
    builder.cast_impl = repaired_cast
    builder.create_dot = repaired_dot


if interpreting():
    _repair_bfloat16()
