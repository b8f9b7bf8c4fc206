"""The registry of operators: each with its shapes, its reference and the ways to compute it. Filled by _kernel_set.py.

`eager` is the formula in plain PyTorch; on float64 inputs it is the reference of all others. Another way to compute an
operator is added by `@provider("rms_norm", "mine")` on a function that takes the inputs and returns the call to be
timed; it may raise `_bench.Unavailable`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import _bench

if TYPE_CHECKING:
    import torch

__all__ = ["OPERATORS", "Inputs", "Operator", "Prepare", "case", "fused", "ours", "provider", "register"]

Inputs = dict[str, Any]  # tensors and plain values, by the argument names of `eager`
Prepare = Callable[[Inputs], Callable[[], Any]]


@dataclass(frozen=True)
class Operator:
    """One operator.

    Attributes:
        name: as in medvllm.kernels.explain().
        dimensions: what the numbers of a shape are.
        shapes: the default shapes of each device, small on a CPU.
        inputs: makes the inputs of a shape in a dtype on a device.
        eager: the formula; takes the inputs by name.
        bytes_moved: what must be read and written at least.
        writes: inputs that the operator writes into; each provider gets a copy of its own.
        providers: further ways to compute it.
    """

    name: str
    dimensions: tuple[str, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], ...]]
    inputs: Callable[[tuple[int, ...], torch.dtype, str], Inputs]
    eager: Callable[..., Any]
    bytes_moved: Callable[[Inputs], int]
    writes: tuple[str, ...] = ()
    providers: dict[str, Prepare] = field(default_factory=dict)


OPERATORS: dict[str, Operator] = {}


def register(operator: Operator) -> Operator:
    """Adds an operator, with the providers eager, inductor, ours and fused."""
    operator.providers.setdefault("eager", lambda inputs: lambda: operator.eager(**inputs))
    operator.providers.setdefault("inductor", lambda inputs: _inductor(operator, inputs))
    operator.providers.setdefault("ours", lambda inputs: ours(operator.name, inputs))
    operator.providers.setdefault("fused", lambda inputs: fused(operator.name, inputs))
    OPERATORS[operator.name] = operator
    return operator


def provider(operator: str, name: str) -> Callable[[Prepare], Prepare]:
    """Adds a way to compute an operator; one of the same name is replaced."""

    def add(prepare: Prepare) -> Prepare:
        OPERATORS[operator].providers[name] = prepare
        return prepare

    return add


def ours(name: str, inputs: Inputs) -> Callable[[], Any]:
    """medvllm.kernels' function of that name: the Triton kernel, or its fallback where the report says so."""
    from medvllm import kernels

    function = getattr(kernels, name)
    return lambda: function(**inputs)


def fused(name: str, inputs: Inputs) -> Callable[[], Any]:
    """Only the Triton kernel; raises Unavailable with the reason where its fallback would run."""
    from medvllm import kernels

    chosen = kernels.explain()[name]
    if chosen["backend"] != "triton":
        raise _bench.Unavailable(str(chosen["reason"]))
    return ours(name, inputs)


def case(
    operator: Operator, shape: tuple[int, ...], *, dtype: str, device: str, providers: Sequence[str]
) -> _bench.Case:
    """The operator on one shape, with the providers asked for."""
    inputs = operator.inputs(shape, _bench.torch_dtype(dtype), device)
    return _bench.Case(
        op=operator.name,
        shape="x".join(map(str, shape)),
        dtype=dtype,
        bytes_moved=operator.bytes_moved(inputs),
        reference=lambda: operator.eager(**_double(inputs)),
        providers={name: _prepared(operator, name, inputs) for name in providers},
    )


def _prepared(operator: Operator, name: str, inputs: Inputs) -> Callable[[], Callable[[], Any]]:
    return lambda: operator.providers[name](inputs | {key: inputs[key].clone() for key in operator.writes})


def _inductor(operator: Operator, inputs: Inputs) -> Callable[[], Any]:
    function = _bench.compiled(operator.eager)
    return lambda: function(**inputs)


def _double(inputs: Inputs) -> Inputs:
    import torch

    return {
        name: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
