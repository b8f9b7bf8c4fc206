"""benchmark_kernels.py on a CPU: every operator, its errors, and outputs that are wrong."""

from __future__ import annotations

import csv
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "benchmark_kernels.py"
OPERATORS = {
    "bias_gelu",
    "depthwise_conv2d",
    "paged_decode_attention",
    "rms_norm",
    "rotary",
    "separable_conv3d",
    "silu_and_mul",
    "softmaxv",
    "store_kv",
}


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_every_operator_agrees_with_its_reference(run_benchmark: Any, tmp_path: Path, dtype: str) -> None:
    done = run_benchmark("kernels", "--device=cpu", "--iters=2", "--warmup=1", f"--dtype={dtype}", "--csv=a/rows.csv")
    assert done.code == 0, done.stderr
    rows = done.report["rows"]
    assert {row["op"] for row in rows} == OPERATORS
    for row in rows:
        assert row["error"] is None
        if row["skipped"]:
            continue
        assert row["ok"] is True
        assert row["time_ms"]["n"] == 2
        assert 0 < row["time_ms"]["min"] <= row["time_ms"]["median"] <= row["time_ms"]["p90"]
        assert row["percent_of_floor"] == pytest.approx(
            100 * row["floor_ms"] / row["time_ms"]["median"], rel=0.05, abs=0.1
        )
        if row["provider"].startswith("ours"):
            assert row["backend"] == "torch"
            assert row["reason"]
    with open(tmp_path / "a" / "rows.csv", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["provider"] for line in lines] == [row["provider"] for row in rows]
    assert float(lines[0]["median_ms"]) == rows[0]["time_ms"]["median"]


def test_the_report_names_machine_versions_and_commit(run_benchmark: Any, tmp_path: Path) -> None:
    done = run_benchmark(
        "kernels", "--device=cpu", "--iters=1", "--op=rms_norm", "--shape=3x64", "--json=b/report.json"
    )
    assert json.loads((tmp_path / "b" / "report.json").read_text()) == done.report
    environment = done.report["environment"]
    assert {"cpu", "cores", "python", "commit", "changed", "utc", "threads", "gpu", "switches"} <= environment.keys()
    assert environment["versions"]["torch"]
    assert environment["device"] == "cpu"
    assert done.report["floor"]["copy_gb_per_s"] > 0.1
    assert {row["shape"] for row in done.report["rows"]} == {"3x64"}
    row = done.report["rows"][0]
    assert row["bytes_moved"] == 4 * (4 * 3 * 64 + 64)
    assert row["floor_ms"] == pytest.approx(row["bytes_moved"] / done.report["floor"]["copy_gb_per_s"] / 1e6, abs=1e-5)


PROVIDERS = """
import _bench, _kernel_set, _operators, benchmark_kernels
right = _operators.OPERATORS["rms_norm"].eager
@_operators.provider("rms_norm", "off")
def _(inputs):
    return lambda: tuple(t + 1e-2 for t in right(**inputs))
@_operators.provider("rms_norm", "nan")
def _(inputs):
    return lambda: tuple(t * float("nan") for t in right(**inputs))
@_operators.provider("rms_norm", "short")
def _(inputs):
    return lambda: tuple(t[:1] for t in right(**inputs))
@_operators.provider("rms_norm", "raises")
def _(inputs):
    raise RuntimeError("no such thing")
@_operators.provider("rms_norm", "absent")
def _(inputs):
    raise _bench.Unavailable("it is not installed")
_bench.main(benchmark_kernels.parser, benchmark_kernels.run)
"""
WRONG = {"off": "0.01", "nan": "not finite", "short": "has shape", "raises": "RuntimeError: no such thing"}


def test_wrong_providers_fail_the_run_and_the_others_are_timed(program: Any) -> None:
    done = program("kernels", "--device=cpu", "--iters=1", "--op=rms_norm", "--shape=2x64", before=PROVIDERS)
    assert done.code == 1
    rows = {row["provider"]: row for row in done.report["rows"]}
    shown = done.stderr.splitlines()
    for name, failure, line in zip(WRONG, done.report["failures"], shown, strict=True):
        assert WRONG[name] in failure
        assert line == f"failed: {failure}"
        assert line.startswith(f"failed: rms_norm 2x64 fp32 / {name}: ")
        assert rows[name]["ok"] is False
    assert rows["eager"]["ok"] is rows["ours"]["ok"] is True
    assert rows["absent"]["skipped"] == "it is not installed"


def test_a_provider_that_is_not_to_be_had_fails_nothing(program: Any) -> None:
    only = ("--provider=eager,absent", "--op=rms_norm", "--shape=2x64")
    done = program("kernels", "--device=cpu", "--iters=1", *only, before=PROVIDERS)
    assert done.code == 0
    assert done.stderr == "", "no progress bar where stderr is no terminal"


def test_disabling_triton_is_seen_in_the_reason(run_benchmark: Any) -> None:
    done = run_benchmark(
        "kernels", "--device=cpu", "--iters=1", "--op=bias_gelu", "--provider=ours", MEDVLLM_DISABLE_TRITON="1"
    )
    assert done.report["rows"][0]["reason"] == "MEDVLLM_DISABLE_TRITON is set"
    assert done.report["environment"]["switches"]["MEDVLLM_DISABLE_TRITON"] == "1"


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (("--op=rms",), "--op must be among", 1),
        (("--provider=cudnn",), "--provider must be among", 1),
        (("--op=rms_norm", "--shape=3"), "must be tokensxhidden", 1),
        (("--shape=3x4",), "needs one --op", 1),
        (("--iters=0",), "at least 1", 2),
        (("--nonsense",), "--nonsense", 2),
        (("--dtype=int8",), "fp32", 2),
        (("--op=rms_norm", "--shape=2x8", "--provider=eager", "--iters=1", "--out=/proc/x/y"), "/proc/x", 1),
    ],
)
def test_errors(run_benchmark: Any, arguments: tuple[str, ...], words: str, code: int) -> None:
    done = run_benchmark("kernels", *arguments)
    assert done.code == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_list_and_help_need_no_torch() -> None:
    start = "runpy.run_path(sys.argv[0], run_name='__main__')"
    check = f"import sys, runpy\ntry:\n    {start}\nfinally:\n    assert 'torch' not in sys.modules"
    for option, words in (("--list", "softmaxv: batchxheadsxqueriesxkeysxdim"), ("-h", "--csv FILE")):
        argv = [str(PROGRAM), option]
        program = f"import sys; sys.argv = {argv!r}; sys.path.insert(0, {str(PROGRAM.parent)!r})\n{check}"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert words in done.stdout


def test_a_progress_bar_on_a_terminal() -> None:
    command = [sys.executable, str(PROGRAM), "--device=cpu", "--op=rms_norm", "--shape=2x64", "--iters=1"]
    ours, theirs = pty.openpty()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "rms_norm 2x64 fp32 / eager" in shown
    assert "█" in shown


@pytest.mark.slow
def test_inductor(run_benchmark: Any) -> None:
    done = run_benchmark("kernels", "--device=cpu", "--iters=1", "--op=silu_and_mul", "--provider=inductor")
    assert done.code == 0, done.stderr
    row = done.report["rows"][0]
    assert row["ok"] is True or row["skipped"]


def test_on_a_gpu(run_benchmark: Any, device: str) -> None:
    if device != "cuda":
        return
    done = run_benchmark(
        "kernels",
        "--device=cuda",
        "--dtype=bf16",
        "--iters=3",
        "--op=rms_norm,depthwise_conv2d,softmaxv,separable_conv3d",
        MEDVLLM_ENABLE_TRITON_SOFTMAXV="1",
        MEDVLLM_ENABLE_TRITON_SEP3D="1",
    )
    assert done.code == 0, done.stderr
    assert done.report["environment"]["gpu"]["name"]
    assert all(row["backend"] == "triton" for row in done.report["rows"] if row["provider"] == "ours")
