"""One profiler for every workload: torch.profiler where there is one, else time and memory only.

    profiler = get_profiler(device="cuda", emit_trace=True, trace_dir="./profiles")
    with profiler.profile():
        ...
    profiler.results["gpu_time_ms"]

torch.profiler sees the operators of the thread that enters the block. Nothing here imports torch before that.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from medvllm.errors import MedvllmError
from medvllm.utils.device import resolve_device

if TYPE_CHECKING:
    import torch

__all__ = ["MemoryPeaks", "OperatorTime", "ProfileResults", "Profiler", "get_profiler"]

TOP_OPERATORS = 20
_SAMPLE_S = 0.01  # resident memory is read this often: a read of /proc/self/statm takes some 10 µs

_running = threading.Lock()  # torch.profiler is one per process


class OperatorTime(TypedDict):
    """One operator, its calls summed; times are its own, without what it calls."""

    name: str
    calls: int
    cpu_time_ms: float
    gpu_time_ms: float | None


class MemoryPeaks(TypedDict):
    """Peaks inside the block; None where this machine does not tell. `gpu_…` are of torch's allocator."""

    peak_rss_mib: float | None
    rss_before_mib: float | None
    gpu_peak_allocated_mib: float | None
    gpu_peak_reserved_mib: float | None


class ProfileResults(TypedDict):
    """What one block took.

    `cpu_time_ms` and `gpu_time_ms` sum the own time of the operators: on one thread `cpu_time_ms` is at most
    `wall_time_ms`. `reason` says why something is None that was to be measured; `error` is what the block raised.
    """

    backend: str  # torch.profiler, or memory
    device: str
    wall_time_ms: float
    cpu_time_ms: float | None
    gpu_time_ms: float | None
    memory: MemoryPeaks
    top_operators: list[OperatorTime]
    trace_path: str | None
    reason: str | None
    error: str | None


class Profiler:
    """Made by `get_profiler`. One block at a time; a second block replaces the results of the first."""

    def __init__(self, *, device: str, trace_dir: Path | None, unavailable: str | None) -> None:
        self.device = device
        self._trace_dir = trace_dir
        self._unavailable = unavailable
        self._results: ProfileResults | None = None

    @property
    def results(self) -> ProfileResults:
        """The results of the last block, also of one that raised.

        Raises:
            MedvllmError: no block has ended yet.
        """
        if self._results is None:
            raise MedvllmError("nothing is profiled yet; run the workload inside `with profiler.profile():`")
        return self._results

    @contextlib.contextmanager
    def profile(self) -> Iterator[Profiler]:
        """Profiles the block and leaves `results`, whatever the block raises.

        Raises:
            MedvllmError: another block is being profiled in this process, or the trace could not be written.
        """
        if not _running.acquire(blocking=False):
            raise MedvllmError("a profile is running in this process already; end its block before another begins")
        try:
            self._results = None
            yield from self._profile()
        finally:
            _running.release()

    def _profile(self) -> Iterator[Profiler]:
        operators = None if self._unavailable else _start_operators(self.device)
        memory = _Memory(self.device)
        error: str | None = None
        began = time.perf_counter()
        try:
            yield self
        except BaseException as raised:
            error = f"{type(raised).__name__}: {raised}"
            raise
        finally:
            _synchronize(self.device, failed=error is not None)
            wall_ms = 1000 * (time.perf_counter() - began)
            results = ProfileResults(
                backend="memory" if operators is None else "torch.profiler",
                device=self.device,
                wall_time_ms=wall_ms,
                cpu_time_ms=None,
                gpu_time_ms=None,
                memory=memory.stop(),
                top_operators=[],
                trace_path=None,
                reason=self._unavailable,
                error=error,
            )
            self._results = results
            if operators is not None:
                operators.__exit__(None, None, None)
                _read_operators(operators, results)
                if self._trace_dir is not None:
                    _write_trace(operators, self._trace_dir, results)


def get_profiler(
    device: str | torch.device = "auto",
    emit_trace: bool = False,
    trace_dir: str | os.PathLike[str] | None = None,
) -> Profiler:
    """A profiler for work on `device` (auto, cpu, cuda, xla, or a torch device).

    With `emit_trace` each block leaves a Chrome trace under a name of its own in `trace_dir` (default `./profiles`),
    made where it is missing, which opens in chrome://tracing and Perfetto. Without torch.profiler the results
    hold time and memory only, and `results["reason"]` says why.

    Raises:
        MedvllmError: the device is unknown or not there, or `trace_dir` can't be made.
    """
    unavailable = _profiler_unavailable()
    kind = str(device).partition(":")[0]
    without_torch = importlib.util.find_spec("torch") is None and kind in ("auto", "cpu")
    kind = "cpu" if without_torch else resolve_device(kind)  # memory can be watched without torch
    folder = None
    if emit_trace:
        folder = Path(trace_dir if trace_dir is not None else "profiles")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MedvllmError(f"--trace-dir {folder} can't be made: {error.strerror}") from error
    return Profiler(device=kind, trace_dir=folder, unavailable=unavailable)


def _profiler_unavailable() -> str | None:
    """Why there is no torch.profiler here; None when there is."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed, so operators are not timed and there is no trace"
    try:
        import torch.profiler
    except ImportError as error:
        return f"torch.profiler can't be imported ({error}), so operators are not timed and there is no trace"
    if not torch.profiler.kineto_available():
        return "this torch is built without Kineto, so operators are not timed and there is no trace"
    return None


def _start_operators(device: str) -> Any:
    """torch.profiler, started."""
    import torch

    if torch.autograd._profiler_enabled():
        raise MedvllmError("torch.profiler is running in this thread already; end it before this profile begins")
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    else:  # torch 2.13 prints two lines on stderr per block, above the level of errors; a GPU's errors are to be seen
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    operators = torch.profiler.profile(activities=activities)
    operators.__enter__()
    return operators


def _read_operators(operators: Any, results: ProfileResults) -> None:
    """Fills in the times of a stopped torch.profiler. It counts in µs."""
    from torch.autograd import DeviceType

    on_gpu = results["device"] == "cuda"
    table = operators.key_averages()
    # A kernel stands in the table itself and once more in the operator that launched it: sum the kernels only.
    kernels = [row for row in table if row.device_type != DeviceType.CPU and not row.is_user_annotation]
    rows = [row for row in table if row.device_type == DeviceType.CPU]
    results["cpu_time_ms"] = sum(row.self_cpu_time_total for row in rows) / 1000
    results["gpu_time_ms"] = sum(row.self_device_time_total for row in kernels) / 1000 if on_gpu else None
    rows.sort(key=lambda row: (row.self_device_time_total if on_gpu else 0, row.self_cpu_time_total), reverse=True)
    results["top_operators"] = [
        OperatorTime(
            name=row.key,
            calls=row.count,
            cpu_time_ms=row.self_cpu_time_total / 1000,
            gpu_time_ms=row.self_device_time_total / 1000 if on_gpu else None,
        )
        for row in rows[:TOP_OPERATORS]
    ]


def _write_trace(operators: Any, folder: Path, results: ProfileResults) -> None:
    """Fills in where the trace is, or why it could not be written, which raises unless the block did."""
    try:
        results["trace_path"] = str(_export(operators, folder, results["device"]))
    except (OSError, RuntimeError) as error:
        results["reason"] = f"the trace could not be written to {folder}: {error}"
        if results["error"] is None:
            raise MedvllmError(results["reason"]) from error


def _export(operators: Any, folder: Path, device: str) -> Path:
    """Writes the trace whole under a name that nobody has."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=f"{device}-{stamp}-", suffix=".trace.json")
    os.close(descriptor)
    partial = f"{name}.partial"
    try:
        operators.export_chrome_trace(partial)
        os.replace(partial, name)
    except BaseException:
        for left in (partial, name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(left)
        raise
    return Path(name)


def _synchronize(device: str, *, failed: bool) -> None:
    """Waits for the GPU, so that its work is inside the block."""
    if device != "cuda":
        return
    import torch

    try:
        torch.cuda.synchronize()
    except RuntimeError:  # a block that broke the GPU's context has raised already
        if not failed:
            raise


class _Memory:
    """Peaks of resident and GPU memory from construction to `stop`."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._before = _status_mib("VmRSS")
        self._high_before = _status_mib("VmHWM")
        self._sampled = self._before
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        if self._before is not None:
            self._thread = threading.Thread(target=self._sample, name="medvllm-memory", daemon=True)
            self._thread.start()
        if device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLE_S):
            self._sampled = _larger(self._sampled, _resident_mib())

    def stop(self) -> MemoryPeaks:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        after, high = _status_mib("VmRSS"), _status_mib("VmHWM")
        peak = _larger(self._sampled, after)
        if high is not None and self._high_before is not None and high > self._high_before:
            peak = high  # the process never held more than in this block: the kernel's own figure is exact
        peaks = MemoryPeaks(
            peak_rss_mib=peak, rss_before_mib=self._before, gpu_peak_allocated_mib=None, gpu_peak_reserved_mib=None
        )
        if self._device == "cuda":
            import torch

            peaks["gpu_peak_allocated_mib"] = torch.cuda.max_memory_allocated() / 2**20
            peaks["gpu_peak_reserved_mib"] = torch.cuda.max_memory_reserved() / 2**20
        return peaks


def _larger(one: float | None, other: float | None) -> float | None:
    known = [value for value in (one, other) if value is not None]
    return max(known) if known else None


def _status_mib(field: str) -> float | None:
    """VmRSS or VmHWM of this process; None where there is no /proc."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), None)


def _resident_mib() -> float | None:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
