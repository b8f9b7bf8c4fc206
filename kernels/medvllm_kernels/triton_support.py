"""The one place that looks for triton, a GPU and the environment's switches, and that starts kernels.

An operator calls `choose` with its tensors and takes its Triton kernel or its PyTorch reference accordingly. A kernel
is started through a `Launch`: the kernel, a grid of one axis (axis 0 takes 2³¹ − 1 programs, axes 1 and 2 only 65,535)
and the arguments by name. The compile gate compiles the very launches that run, see triton_report.py.

Environment
    MEDVLLM_DISABLE_TRITON=1          no Triton kernel is used
    MEDVLLM_ENABLE_TRITON_SOFTMAXV=1  allows the softmax×V kernel
    MEDVLLM_ENABLE_TRITON_SEP3D=1     allows the depthwise 3-D kernel
    TRITON_INTERPRET=1                triton's own: kernels run in its interpreter, on CPU tensors
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # everything imports, and runs its PyTorch reference
    triton = None
    tl = None

__all__ = [
    "DTYPES",
    "OPERATORS",
    "Choice",
    "KernelArgumentError",
    "Launch",
    "as_rows",
    "cdiv",
    "check",
    "choose",
    "constant",
    "environment_choice",
    "explain",
    "flag",
    "interpreting",
    "jit",
    "next_power_of_2",
    "processors",
    "row_tile",
    "run_fastest",
    "tl",
    "triton",
]

DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
MAX_PROGRAMS: Final = 2**31 - 1
OLDEST_CAPABILITY: Final = (8, 0)  # what the compile gate covers begins here

# Every operator, and the variable that must be set before its kernel is used.
OPERATORS: Final[dict[str, str | None]] = {
    "depthwise_conv2d": None,
    "separable_conv3d": "MEDVLLM_ENABLE_TRITON_SEP3D",
    "softmaxv": "MEDVLLM_ENABLE_TRITON_SOFTMAXV",
    "store_kv": None,
    "paged_decode_attention": None,
    "rms_norm": None,
    "rotary": None,
    "silu_and_mul": None,
    "bias_gelu": None,
}


class KernelArgumentError(ValueError):
    """An argument or an environment variable of a kernel is wrong: what was expected, what came, the remedy."""


def check(condition: bool, message: Callable[[], str]) -> None:
    """Raises KernelArgumentError with `message()` unless `condition` holds."""
    if not condition:
        raise KernelArgumentError(message())


def flag(name: str) -> bool:
    """Whether the environment variable is set to anything but the empty string and 0."""
    return os.environ.get(name, "") not in ("", "0")


def environment_choice(name: str, allowed: Sequence[int]) -> int | None:
    """The whole number in an environment variable, None when it is not set.

    Raises:
        KernelArgumentError: the value is not among `allowed`.
    """
    text = os.environ.get(name, "")
    if not text:
        return None
    if text not in [str(value) for value in allowed]:
        valid = ", ".join(str(value) for value in allowed)
        raise KernelArgumentError(f"{name} must be one of {valid}, got {text!r}; unset it to let the kernel choose")
    return int(text)


def cdiv(numerator: int, denominator: int) -> int:
    """The quotient, rounded up."""
    return -(-numerator // denominator)


def next_power_of_2(number: int) -> int:
    """The smallest power of two that is at least `number`; 1 for 0."""
    return 1 << max(0, number - 1).bit_length()


def as_rows(tensor: torch.Tensor) -> torch.Tensor:
    """(rows, width) of a tensor (…, width), its rows contiguous; a copy only where the strides ask for one."""
    width = tensor.shape[-1]
    flat = tensor.reshape(-1, width) if width else tensor.reshape(0, 0)
    return flat if flat.stride(-1) == 1 else flat.contiguous()


def row_tile(rows: int, width: int) -> tuple[int, int]:
    """Rows and columns of an elementwise tile of 2048 elements: 16 a thread, two to four 16-byte loads."""
    block = min(next_power_of_2(width), 2048)
    return min(max(1, 2048 // block), next_power_of_2(rows)), block


# ---- what is there ------------------------------------------------------------------------------------------------


def interpreting() -> bool:
    """Whether triton's interpreter stands in for the GPU; fixed when the kernels were imported."""
    return triton is not None and bool(triton.knobs.runtime.interpret)


@functools.cache
def _gpu_problem() -> str | None:
    if triton is None:
        return "triton is not installed"
    if interpreting():
        return None
    if not torch.cuda.is_available():
        return "no CUDA GPU is visible to torch"
    if torch.version.hip is not None:
        return "the GPU is not an NVIDIA one"
    capability = torch.cuda.get_device_capability()
    if capability < OLDEST_CAPABILITY:
        return f"compute capability is {capability[0]}.{capability[1]}, at least 8.0 is needed"
    return None


@functools.cache
def processors(device: torch.device) -> int:
    """Multiprocessors of the GPU; 1 on a CPU (the interpreter); an H100's 132 on `meta`, where launches are planned."""
    if device.type != "cuda":
        return 132 if device.type == "meta" else 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


# ---- what is chosen -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Choice:
    """What an operator runs on, `triton` or `torch`, and why."""

    operator: str
    backend: str
    reason: str

    @property
    def fused(self) -> bool:
        """Whether the Triton kernel runs."""
        return self.backend == "triton"


_last: dict[str, Choice] = {}


def _machine_choice(operator: str) -> Choice:
    opt_in = OPERATORS[operator]
    if flag("MEDVLLM_DISABLE_TRITON"):
        return Choice(operator, "torch", "MEDVLLM_DISABLE_TRITON is set")
    if opt_in is not None and not flag(opt_in):
        return Choice(operator, "torch", f"{opt_in}=1 is not set")
    problem = _gpu_problem()
    if problem is not None:
        return Choice(operator, "torch", problem)
    return Choice(operator, "triton", "interpreter (TRITON_INTERPRET)" if interpreting() else _gpu_name())


@functools.cache
def _gpu_name() -> str:
    return str(torch.cuda.get_device_name())


def _tensor_problem(tensors: Iterable[torch.Tensor]) -> str | None:
    place = "cpu" if interpreting() else "cuda"
    for tensor in tensors:
        if tensor.device.type != place:
            return f"a tensor is on {tensor.device.type}"
        if tensor.is_floating_point() and tensor.dtype not in DTYPES:
            return f"dtype {str(tensor.dtype).removeprefix('torch.')} has no kernel"
    return None


def choose(operator: str, *tensors: torch.Tensor | None, unless: str | None = None) -> Choice:
    """What `operator` runs on for these tensors; remembered for `explain`.

    Args:
        operator: a key of OPERATORS.
        *tensors: those the kernel would read; None stands for one that was not given.
        unless: a reason of the operator's own not to use its kernel.
    """
    choice = _machine_choice(operator)
    if choice.fused:
        problem = _tensor_problem(tensor for tensor in tensors if tensor is not None) or unless
        if problem is not None:
            choice = Choice(operator, "torch", problem)
    _last[operator] = choice
    return choice


def explain() -> dict[str, dict[str, str | None]]:
    """For every operator: `backend` and `reason` on this machine, `last_backend` and `last_reason` of the last call.

    The last two are None until the operator was called in this process.
    """
    table: dict[str, dict[str, str | None]] = {}
    for operator in OPERATORS:
        here, last = _machine_choice(operator), _last.get(operator)
        table[operator] = {
            "backend": here.backend,
            "reason": here.reason,
            "last_backend": last.backend if last else None,
            "last_reason": last.reason if last else None,
        }
    return table


# ---- how it is started --------------------------------------------------------------------------------------------


def jit(function: Callable[..., Any]) -> Any:
    """`triton.jit`, or the function as it is where triton is not installed."""
    return function if triton is None else triton.jit(function)


def constant(value: float) -> Any:
    """A number that kernels may read as a global."""
    return value if tl is None else tl.constexpr(value)


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of a kernel: `grid` programs on axis 0, arguments by name, compile-time constants among them."""

    kernel: Any
    grid: int
    arguments: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 1
    label: str = field(default="", compare=False)

    def run(self) -> None:
        """Starts the kernel on the device of its tensors; no programs, no start.

        Raises:
            KernelArgumentError: more programs than CUDA starts at once.
        """
        if self.grid == 0:
            return
        check(self.grid <= MAX_PROGRAMS, lambda: f"{self.grid} programs exceed CUDA's {MAX_PROGRAMS}; split the batch")
        tensor = next(value for value in self.arguments.values() if isinstance(value, torch.Tensor))
        if tensor.device.type != "cuda" or tensor.device.index == torch.cuda.current_device():
            self._start()
        else:
            with torch.cuda.device(tensor.device):
                self._start()

    def _start(self) -> None:
        self.kernel[(self.grid,)](**self.arguments, num_warps=self.num_warps, num_stages=self.num_stages)


_fastest: dict[tuple[Any, ...], int] = {}


def run_fastest(key: tuple[Any, ...], candidates: Sequence[Launch]) -> None:
    """Runs one of several launches that compute the same: the fastest, measured at the first call with this key.

    The interpreter takes the first, and so does a call while a CUDA graph is being captured, where nothing can be
    measured. Candidates overwrite their outputs, so running them repeatedly is harmless.
    """
    if len(candidates) == 1 or interpreting() or candidates[0].grid == 0:
        candidates[0].run()
        return
    index = _fastest.get(key)
    if index is None:
        if torch.cuda.is_current_stream_capturing():
            candidates[0].run()
            return
        times = [float(triton.testing.do_bench(launch.run, warmup=5, rep=20)) for launch in candidates]  # ms
        index = _fastest[key] = times.index(min(times))
    candidates[index].run()
