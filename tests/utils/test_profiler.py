"""The profiler: times, memory and traces of real torch work; blocks that raise, nest, or run without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medvllm.errors import MedvllmError
from medvllm.utils import profiler as profiler_module
from medvllm.utils.profiler import get_profiler

ROOT = Path(profiler_module.__file__).parent.parent.parent


def _work() -> torch.Tensor:
    matrix = torch.randn(300, 300)
    for _ in range(5):
        matrix = torch.softmax(matrix @ matrix, dim=-1)
    return matrix


def test_times_memory_and_operators() -> None:
    profiler = get_profiler("cpu")
    with profiler.profile():
        _work()
        block = torch.ones(64 * 2**18)  # 64 MiB
    results = profiler.results
    assert results["backend"] == "torch.profiler"
    assert results["reason"] is None
    assert results["error"] is None
    assert results["trace_path"] is None
    assert results["gpu_time_ms"] is None
    assert results["cpu_time_ms"] is not None
    assert 0 < results["cpu_time_ms"] <= results["wall_time_ms"] * 1.05
    operators = {row["name"]: row for row in results["top_operators"]}
    assert operators["aten::mm"]["calls"] == 5
    times = [row["cpu_time_ms"] for row in results["top_operators"]]
    assert times == sorted(times, reverse=True)
    assert len(times) <= profiler_module.TOP_OPERATORS
    memory = results["memory"]
    assert memory["gpu_peak_allocated_mib"] is None
    assert memory["peak_rss_mib"] is not None
    assert memory["rss_before_mib"] is not None
    assert memory["peak_rss_mib"] - memory["rss_before_mib"] > 50
    assert block.numel()


def test_the_peak_is_that_of_the_block_not_of_the_process() -> None:
    held = torch.ones(96 * 2**18)
    del held
    profiler = get_profiler("cpu")
    with profiler.profile():
        _work()
    memory = profiler.results["memory"]
    assert memory["peak_rss_mib"] is not None
    assert memory["rss_before_mib"] is not None
    assert memory["peak_rss_mib"] - memory["rss_before_mib"] < 60


def test_traces_load_and_have_names_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "profiles"
    profiler = get_profiler("cpu", emit_trace=True, trace_dir=folder)
    paths = []
    for _ in range(3):
        with profiler.profile():
            _work()
        paths.append(profiler.results["trace_path"])
    assert len(set(paths)) == 3
    assert {str(path) for path in folder.iterdir()} == set(paths)
    for path in paths:
        assert path is not None
        events = json.loads(Path(path).read_text())["traceEvents"]
        assert sum(event.get("name") == "aten::mm" and event.get("ph") == "X" for event in events) == 5


def test_traces_go_to_profiles_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    profiler = get_profiler("cpu", emit_trace=True)
    with profiler.profile():
        _work()
    assert len(list((tmp_path / "profiles").glob("*.json"))) == 1


def test_a_block_that_raises_leaves_results_and_can_be_followed(tmp_path: Path) -> None:
    profiler = get_profiler("cpu", emit_trace=True, trace_dir=tmp_path)
    with pytest.raises(ZeroDivisionError), profiler.profile():
        int(torch.ones(3).sum()) // 0
    assert profiler.results["error"] == "ZeroDivisionError: integer division or modulo by zero"
    assert Path(str(profiler.results["trace_path"])).stat().st_size > 100
    with profiler.profile():
        _work()
    assert profiler.results["error"] is None


def test_a_profile_prints_nothing() -> None:
    program = "from medvllm.utils.profiler import get_profiler\nwith get_profiler('cpu').profile(): pass"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{program}"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nested_profiles_are_refused() -> None:
    outer, inner = get_profiler("cpu"), get_profiler("cpu")
    with outer.profile():
        with pytest.raises(MedvllmError, match="running in this process already"), inner.profile():
            raise AssertionError("the inner block must not run")
        _work()
    assert outer.results["error"] is None
    assert {row["name"] for row in outer.results["top_operators"]} >= {"aten::mm"}
    with inner.profile():
        _work()


def test_inside_another_use_of_torch_profiler_is_refused() -> None:
    profiler = get_profiler("cpu")
    with torch.profiler.profile():
        with pytest.raises(MedvllmError, match=r"torch\.profiler is running"), profiler.profile():
            pass
        _work()
    with profiler.profile():
        _work()


def test_results_before_a_block_say_so() -> None:
    with pytest.raises(MedvllmError, match="nothing is profiled yet"):
        _ = get_profiler("cpu").results


def test_a_trace_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "profiles"
    profiler = get_profiler("cpu", emit_trace=True, trace_dir=folder)
    folder.rmdir()
    with pytest.raises(MedvllmError, match="could not be written"), profiler.profile():
        _work()
    assert profiler.results["trace_path"] is None
    assert profiler.results["cpu_time_ms"]
    with pytest.raises(ZeroDivisionError), profiler.profile():
        _ = 1 / 0
    assert "could not be written" in str(profiler.results["reason"])


def test_errors_of_the_caller(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MedvllmError, match="can't be made"):
        get_profiler("cpu", emit_trace=True, trace_dir=tmp_path / "file" / "profiles")
    with pytest.raises(MedvllmError, match="one of auto, cpu, cuda"):
        get_profiler("tpu")


def test_without_torch_time_and_memory_are_left(tmp_path: Path) -> None:
    """An interpreter that has no third-party package at all."""
    program = """
import json
from medvllm.utils.profiler import get_profiler
profiler = get_profiler("auto", emit_trace=True, trace_dir="traces")
with profiler.profile():
    block = bytearray(64 * 2**20)
print(json.dumps(profiler.results))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results["backend"] == "memory"
    assert results["device"] == "cpu"
    assert results["reason"].startswith("torch is not installed")
    assert results["cpu_time_ms"] is None
    assert results["trace_path"] is None
    assert results["top_operators"] == []
    assert results["memory"]["peak_rss_mib"] - results["memory"]["rss_before_mib"] > 50


def test_device_work_is_timed(device: str) -> None:
    profiler = get_profiler(torch.device(device) if device != "xla" else device)
    with profiler.profile():
        (torch.randn(256, 256, device=device) @ torch.randn(256, 256, device=device)).sum().item()
    results = profiler.results
    if device == "cuda":
        assert results["gpu_time_ms"] is not None
        assert 0 < results["gpu_time_ms"] <= results["wall_time_ms"]
        assert results["memory"]["gpu_peak_allocated_mib"] is not None
        assert results["memory"]["gpu_peak_allocated_mib"] >= 0.7
    else:
        assert results["gpu_time_ms"] is None
