"""benchmark_imaging.py and benchmark_separable_conv3d.py on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SMALL = ("--device=cpu", "--height=16", "--width=16", "--iters=2", "--warmup=1")


def test_depthwise_bench(run_benchmark: Any) -> None:
    done = run_benchmark(
        "imaging",
        *SMALL,
        "--batch=2",
        "--depthwise-bench",
        "--depthwise-bench-iters=3",
        "--depthwise-bench-sizes=4x16x16,8x8x24",
        "--channels-last",
    )
    assert done.code == 0, done.stderr
    bench = done.report["depthwise_bench"]
    assert bench["iters"] == 3
    assert [case["size"] for case in bench["cases"]] == ["4x16x16", "8x8x24"]
    for case in bench["cases"]:
        for name in ("eager", "channels_last"):
            assert case[name]["ok"] is True
            assert case[name]["time_ms"]["n"] == 3
        assert case["fused"]["available"] is False
        assert case["fused"]["reason"] == "no CUDA GPU is visible to torch"
        assert case["fused"]["time_ms"] is None
    assert bench["cases"][0]["eager"]["bytes_moved"] == 4 * (2 * 2 * 4 * 16 * 16 + 4 * 9)


def test_depthwise_bench_takes_the_size_flags(run_benchmark: Any) -> None:
    done = run_benchmark(
        "imaging", *SMALL, "--in-ch=6", "--depthwise-bench", "--depthwise-bench-iters=1", "--kernel-size=5"
    )
    assert [case["size"] for case in done.report["depthwise_bench"]["cases"]] == ["6x16x16"]
    assert done.report["depthwise_bench"]["cases"][0]["eager"]["shape"] == "1x6x16x16x5"


@pytest.mark.parametrize(
    ("flags", "shape", "groups"),
    [
        (("--conv-type=3d", "--in-ch=4", "--groups=2", "--depth=5"), "1x4x5x16x16 k3 g2", 2),
        (("--conv-type=2d", "--in-ch=6", "--depthwise", "--groups=2", "--batch=3"), "3x6x16x16 k3 g6", 6),
        (("--dtype=bf16", "--no-amp"), "1x8x16x16 k3 g1", 1),
    ],
)
def test_the_network(run_benchmark: Any, tmp_path: Path, flags: tuple[str, ...], shape: str, groups: int) -> None:
    done = run_benchmark(
        "imaging",
        *SMALL,
        *flags,
        "--channels-last",
        "--acc-check",
        "--cudnn-benchmark",
        "--emit-trace",
        "--trace-dir=t",
    )
    assert done.code == 0, done.stderr
    conv = done.report["conv"]
    assert conv["groups"] == groups
    assert conv["amp"] is False
    assert conv["cudnn_benchmark"] is True
    assert {row["provider"]: row["shape"] for row in conv["cases"]} == {"eager": shape, "channels_last": shape}
    for row in conv["cases"]:
        assert row["ok"] is True
        batch = int(shape.split("x")[0])
        assert row["images_per_s"] == pytest.approx(1000 * batch / row["time_ms"]["median"], rel=0.01)
    assert done.report["acc_check"]["eager"] == {"identical": True, "max_difference": 0.0}
    profile = done.report["profile"]
    assert profile["memory"]["peak_rss_mib"] > 50
    assert json.loads((tmp_path / profile["trace_path"]).read_text())["traceEvents"]


@pytest.mark.parametrize(
    ("flags", "words", "code"),
    [
        (("--groups=3",), "--in-ch must be a multiple of --groups, got 8 and 3", 1),
        (("--kernel-size=4",), "--kernel-size must be odd, got 4", 1),
        (("--depthwise-bench", "--depthwise-bench-sizes=8x8"), "must be CxHxW[,CxHxW…], got '8x8'", 1),
        (("--depthwise-bench", "--depthwise-bench-sizes=8x8x0"), "must be CxHxW[,CxHxW…], got '8x8x0'", 1),
        (("--conv-type=4d",), "3d", 2),
        (("--seg-dataset=seg3d",), "seg2d_small", 2),
    ],
)
def test_errors(run_benchmark: Any, flags: tuple[str, ...], words: str, code: int) -> None:
    done = run_benchmark("imaging", *SMALL, *flags)
    assert done.code == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_compiled(run_benchmark: Any) -> None:
    done = run_benchmark("imaging", *SMALL, "--compile", "--depthwise-bench", "--depthwise-bench-iters=1")
    assert done.code == 0, done.stderr
    row = {row["provider"]: row for row in done.report["conv"]["cases"]}["inductor"]
    assert row["ok"] is True or row["skipped"]


def test_separable_conv3d(run_benchmark: Any) -> None:
    done = run_benchmark(
        "separable_conv3d",
        "--device=cpu",
        "--sizes=2x4x8x8,3x5x6x7",
        "--iters=2",
        "--channels-last",
        "--bias",
        MEDVLLM_ENABLE_TRITON_SEP3D="1",
        MEDVLLM_SEP3D_FUSE_RELU="1",
    )
    assert done.code == 0, done.stderr
    assert (done.report["bias"], done.report["relu"]) == (True, True)
    assert [case["size"] for case in done.report["cases"]] == ["1x2x4x8x8x3", "1x3x5x6x7x3"]
    for case in done.report["cases"]:
        assert case["eager"]["ok"] is case["channels_last"]["ok"] is True
        assert case["fused"]["available"] is False
        assert case["fused"]["reason"] == "no CUDA GPU is visible to torch"


def test_separable_conv3d_names_its_switch(run_benchmark: Any) -> None:
    done = run_benchmark("separable_conv3d", "--device=cpu", "--sizes=2x4x8x8", "--iters=1")
    assert done.code == 0
    assert done.report["cases"][0]["fused"]["reason"] == "MEDVLLM_ENABLE_TRITON_SEP3D=1 is not set"
    wrong = run_benchmark("separable_conv3d", "--sizes=2x4x8")
    assert (wrong.code, wrong.stderr) == (1, "error: --sizes must be CxDxHxW[,CxDxHxW…], got '2x4x8'\n")
