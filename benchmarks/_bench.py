"""How a kernel is timed, checked against its reference, and set beside the floor of this machine.

A *case* is one operator on one shape; a *provider* is one way to compute it. `run_case` times every provider of a case
and returns a row each, a dictionary of

    case, provider           what was timed
    time_ms                  n, median, p90, min; None when nothing was timed
    bytes_moved, floor_ms    what must be read and written at least, and how long a copy of as many bytes takes here
    percent_of_floor         100 · floor_ms / median; more than 100 means that a cache held the data
    max_error, tolerance, ok against a float64 reference
    backend, reason          what medvllm.kernels chose for our provider, and why
    skipped, error           why there is no time: not to be had here, or it raised

The floor is measured in the same run (`Floor.measure`): the median of copies of a tensor that no cache holds.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import _report

if TYPE_CHECKING:
    import torch

__all__ = [
    "DTYPES",
    "TOLERANCES",
    "Case",
    "Floor",
    "Progress",
    "Unavailable",
    "add_common_flags",
    "add_trace_flags",
    "by_provider",
    "compiled",
    "failures",
    "main",
    "make_parser",
    "measure_ms",
    "positive",
    "prepare_torch",
    "run_case",
    "sizes",
    "start",
    "torch_dtype",
    "traced",
]

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
# (atol, rtol) against float64; those of tests/accuracy.
TOLERANCES = {"fp32": (1e-5, 1e-4), "fp16": (5e-3, 5e-3), "bf16": (5e-3, 5e-3)}
FLUSH_BYTES = 256 * 2**20  # written before each timed call on a GPU, so that its L2 (50 MB on an H100) is cold
COPY_BYTES = {"cpu": 128 * 2**20, "cuda": 2**30}


class Unavailable(Exception):
    """A provider can't run here: the reason, for the report."""


@dataclass(frozen=True)
class Case:
    """One operator on one shape.

    Attributes:
        op: the operator's name, as in medvllm.kernels.explain() where it is one of ours.
        shape: the shape in words, such as 8x32x256x256 k3.
        dtype: fp32, fp16 or bf16.
        bytes_moved: what has to be read and written at least, each tensor once.
        reference: computes the expected output in float64: a tensor, or a tuple of them.
        providers: name → a function that prepares and returns the call to be timed. It may raise Unavailable.
        tolerance: (atol, rtol); None takes that of the dtype.
    """

    op: str
    shape: str
    dtype: str
    bytes_moved: int
    reference: Callable[[], Any]
    providers: Mapping[str, Callable[[], Callable[[], Any]]]
    tolerance: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        """What rows of this case are called."""
        return f"{self.op} {self.shape} {self.dtype}"


@dataclass(frozen=True)
class Floor:
    """Copy bandwidth of this machine."""

    copy_gb_per_s: float
    copied_bytes: int
    n: int = field(default=0)

    @classmethod
    def measure(cls, device: str, *, copies: int = 7) -> Floor:
        """Copies a tensor `copies` times; bytes read and bytes written both count."""
        import torch

        size = COPY_BYTES[device]
        source = torch.ones(size // 4, dtype=torch.float32, device=device)
        target = torch.empty_like(source)
        times = measure_ms(lambda: target.copy_(source), device=device, iters=copies, warmup=2)
        return cls(round(2 * size / _report.summary(times)["median"] / 1e6, 2), size, copies)

    def ms(self, bytes_moved: int) -> float:
        """How long this many bytes, read and written together, take."""
        return bytes_moved / self.copy_gb_per_s / 1e6

    def to_dict(self) -> dict[str, Any]:
        """For the report."""
        return {"copy_gb_per_s": self.copy_gb_per_s, "copied_bytes": self.copied_bytes, "n": self.n}


def measure_ms(call: Callable[[], object], *, device: str, iters: int, warmup: int) -> list[float]:
    """Milliseconds of each of `iters` calls after `warmup` that do not count; on cuda by events, with a cold L2."""
    for _ in range(warmup):
        call()
    if device != "cuda":
        times = []
        for _ in range(iters):
            began = time.perf_counter_ns()
            call()
            times.append((time.perf_counter_ns() - began) / 1e6)
        return times
    import torch

    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(iters)]
    torch.cuda.synchronize()
    for began_event, ended_event in events:
        flush.zero_()  # also keeps the GPU busy while the call is being launched
        began_event.record()
        call()
        ended_event.record()
    torch.cuda.synchronize()
    return [began_event.elapsed_time(ended_event) for began_event, ended_event in events]


def run_case(
    case: Case, *, floor: Floor, device: str, iters: int, warmup: int, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """A row for each provider. A provider that raises makes a row with `error`; the others still run."""
    rows = []
    expected: Any = None
    for name, prepare in case.providers.items():
        if progress is not None:
            progress.show(f"{case.name} / {name}")
        row = _row(case, name, floor)
        try:
            call = prepare()
            output = call()
            if expected is None:
                expected = case.reference()
            row |= _accuracy(output, expected, case.tolerance or TOLERANCES[case.dtype])
            row |= _choice(case.op) if name.startswith(("ours", "fused")) else {}
            del output
            row["time_ms"] = _report.summary(measure_ms(call, device=device, iters=iters, warmup=warmup))
            median = row["time_ms"]["median"]
            row["percent_of_floor"] = round(100 * row["floor_ms"] / median, 1) if median else None
        except Unavailable as reason:
            row["skipped"] = str(reason)
        except Exception as error:  # noqa: BLE001 - whatever a provider raises is its row's error, and exit code 1
            row["error"] = f"{type(error).__name__}: {error}".strip()
            row["ok"] = False
        rows.append(row)
    return rows


def _row(case: Case, provider: str, floor: Floor) -> dict[str, Any]:
    return {
        "case": case.name,
        "op": case.op,
        "shape": case.shape,
        "dtype": case.dtype,
        "provider": provider,
        "time_ms": None,
        "bytes_moved": case.bytes_moved,
        "floor_ms": round(floor.ms(case.bytes_moved), 5),
        "percent_of_floor": None,
        "max_error": None,
        "tolerance": None,
        "ok": None,
        "backend": None,
        "reason": None,
        "skipped": None,
        "error": None,
    }


def _accuracy(output: Any, expected: Any, tolerance: tuple[float, float]) -> dict[str, Any]:
    """The greatest difference, and whether all are within |Δ| ≤ atol + rtol · |expected|. NaN is beyond tolerance."""
    atol, rtol = tolerance
    worst, ok = 0.0, True
    for got, wanted in zip(_tensors(output), _tensors(expected), strict=True):
        if got.shape != wanted.shape:
            raise ValueError(f"the output has shape {tuple(got.shape)}, the reference {tuple(wanted.shape)}")
        error = (got.double() - wanted.double()).abs()
        ok = ok and bool((error <= atol + rtol * wanted.double().abs()).all())
        if error.numel():
            worst = max(worst, float(error.nan_to_num(nan=math.inf).max()))
    return {
        "max_error": worst if math.isfinite(worst) else None,  # JSON has no infinity
        "tolerance": {"atol": atol, "rtol": rtol},
        "ok": ok,
    }


def _tensors(output: Any) -> tuple[torch.Tensor, ...]:
    return tuple(output) if isinstance(output, (tuple, list)) else (output,)


def _choice(op: str) -> dict[str, Any]:
    """What medvllm.kernels ran the operator on in its last call."""
    from medvllm import kernels

    chosen = kernels.explain().get(op, {})
    return {
        "backend": chosen.get("last_backend") or chosen.get("backend"),
        "reason": chosen.get("last_reason") or chosen.get("reason"),
    }


def compiled(function: Callable[..., Any], *, mode: str | None = None) -> Callable[..., Any]:
    """`torch.compile` of a function or module; raises Unavailable where Inductor finds no compiler."""
    import torch

    try:
        from torch._inductor.exc import InvalidCxxCompiler
    except ImportError as error:
        raise Unavailable(f"this torch has no Inductor ({error})") from error
    torch._dynamo.reset()
    inner = torch.compile(function, mode=mode)

    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return inner(*arguments, **named)
        except InvalidCxxCompiler as error:
            raise Unavailable("Inductor finds no C++ compiler here; install g++") from error

    return call


def failures(report: Any) -> list[str]:
    """The rows anywhere in a report that raised or differ beyond tolerance."""
    found = []
    if isinstance(report, dict):
        name = f"{report.get('case')} / {report.get('provider')}"
        if report.get("error") is not None:
            found.append(f"{name}: {report['error']}")
        elif report.get("ok") is False:
            error, tolerance = report["max_error"], report["tolerance"]
            shown = "not finite" if error is None else f"{error:.3g}"
            found.append(f"{name}: the error is {shown}, beyond atol {tolerance['atol']:g}, rtol {tolerance['rtol']:g}")
        report = list(report.values())
    if isinstance(report, list):
        for value in report:
            found += failures(value)
    return found


class Progress:
    """One line on stderr that fills up; nothing where stderr is no terminal."""

    WIDTH = 20

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self._tty = sys.stderr.isatty()

    def show(self, label: str) -> None:
        """Counts one more step, now beginning, and names it."""
        if self._tty:
            filled = self.WIDTH * self.done // max(1, self.total)
            bar = "█" * filled + "░" * (self.WIDTH - filled)
            sys.stderr.write(f"\r\x1b[K{bar} {self.done}/{self.total} {label[:80]}")
            sys.stderr.flush()
        self.done += 1

    def close(self) -> None:
        """Takes the line away."""
        if self._tty:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def torch_dtype(name: str) -> torch.dtype:
    """fp32, fp16 or bf16 as torch's."""
    import torch

    dtype: torch.dtype = getattr(torch, DTYPES[name])
    return dtype


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def sizes(option: str, text: str, dimensions: str) -> list[tuple[int, ...]]:
    """The numbers of 8x128x128,32x256x256 given to `option`; `dimensions` names those of one size, such as CxHxW."""
    from medvllm.errors import MedvllmError

    found = []
    for size in text.split(","):
        numbers = size.strip().split("x")
        if len(numbers) != len(dimensions.split("x")) or not all(n.isdigit() and int(n) for n in numbers):
            raise MedvllmError(f"{option} must be {dimensions}[,{dimensions}…], got {size!r}")
        found.append(tuple(map(int, numbers)))
    return found


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows its description as it is written and lets absl's own flags through."""
    from absl.flags import argparse_flags

    result: argparse.ArgumentParser = argparse_flags.ArgumentParser(  # type: ignore[no-untyped-call]
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    return result


def add_common_flags(parser: argparse.ArgumentParser, *, iters: int, dtype: bool = True) -> None:
    """Flags that every kernel benchmark has."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run (%(default)s)")
    if dtype:
        parser.add_argument(
            "--dtype", choices=tuple(DTYPES), default="fp32", help="of inputs and weights (%(default)s)"
        )
    parser.add_argument("--iters", type=positive, default=iters, help="timed calls of each provider (%(default)s)")
    parser.add_argument("--warmup", type=int, default=3, help="calls before that are not timed (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of inputs and weights (%(default)s)")
    parser.add_argument("--out", metavar="FILE", help="also write the JSON to this file; folders are made")


def add_trace_flags(parser: argparse.ArgumentParser) -> None:
    """--emit-trace and --trace-dir."""
    parser.add_argument("--emit-trace", action="store_true", help="write a Chrome trace of one pass")
    parser.add_argument("--trace-dir", default="profiles", metavar="DIR", help="where it goes (./%(default)s)")


def traced(cases: Sequence[Case], rows: Sequence[Mapping[str, Any]], arguments: argparse.Namespace, device: str) -> Any:
    """One more call of every provider that was timed, under the profiler and by its name in the trace."""
    import torch

    from medvllm.utils.profiler import get_profiler

    timed = {(row["case"], row["provider"]) for row in rows if row["time_ms"] is not None}
    calls = [
        (f"{case.name} / {name}", prepare())
        for case in cases
        for name, prepare in case.providers.items()
        if (case.name, name) in timed
    ]
    profiler = get_profiler(device, emit_trace=arguments.emit_trace, trace_dir=arguments.trace_dir)
    with profiler.profile():
        for name, call in calls:
            with torch.profiler.record_function(name):
                call()
    return profiler.results


def by_provider(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows of one case by provider; `fused` also says whether it is to be had, and why not."""
    section: dict[str, Any] = {row["provider"]: dict(row) for row in rows}
    fused = section.get("fused")
    if fused is not None:
        fused["available"] = fused["backend"] == "triton"
        fused["reason"] = fused["reason"] or fused["skipped"] or fused["error"]
    return section


def main(make_parser: Callable[[], argparse.ArgumentParser], run: Callable[[argparse.Namespace], Any]) -> None:
    """The program: parses, runs, prints the report and ends with 0, or 1 where a case failed or the user must act."""
    from absl import app

    app.run(
        lambda arguments: _main(run, arguments),
        flags_parser=lambda argv: make_parser().parse_args(argv[1:]),
    )


def _main(run: Callable[[argparse.Namespace], Any], arguments: argparse.Namespace) -> int:
    from medvllm.errors import MedvllmError

    if "BUILD_WORKING_DIRECTORY" in os.environ:
        os.chdir(os.environ["BUILD_WORKING_DIRECTORY"])
    try:
        report = run(arguments)
        if report is None:
            return 0
        report["failures"] = failures(report)
        _report.write(report, arguments.out)
    except MedvllmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename or '--out'}: {error.strerror}", file=sys.stderr)
        return 1
    for failure in report["failures"]:
        print(f"failed: {failure}", file=sys.stderr)
    return int(bool(report["failures"]))


def start(benchmark: str, arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The device to run on, with torch prepared, and the head of the report."""
    from medvllm.utils.device import resolve_device

    device = resolve_device(arguments.device)
    prepare_torch(device, seed=arguments.seed)
    given = {name: value for name, value in sorted(vars(arguments).items()) if value is not None and name != "out"}
    return device, {"benchmark": benchmark, "arguments": given, "environment": _report.environment(device)}


def prepare_torch(device: str, *, seed: int) -> None:
    """The seed, and fp32 that is fp32: without TF32, which misses the fp32 tolerance."""
    import torch

    torch.manual_seed(seed)
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
