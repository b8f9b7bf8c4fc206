"""benchmark_attention.py on a CPU: every way to compute attention, softmax×V, and the trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SMALL = ("--device=cpu", "--seq=48", "--heads=4", "--dim=16", "--iters=2", "--warmup=1")


def test_attention_softmaxv_and_a_trace(run_benchmark: Any, tmp_path: Path) -> None:
    done = run_benchmark(
        "attention", *SMALL, "--attn-softmaxv-bench", "--enable-triton-softmaxv", "--emit-trace", "--trace-dir=traces"
    )
    assert done.code == 0, done.stderr
    rows = {row["provider"]: row for row in done.report["attention"]}
    assert rows.keys() == {"manual", "sdpa", "flash"}
    for name in ("manual", "sdpa"):
        assert rows[name]["ok"] is True
        assert rows[name]["max_error"] < 1e-5
        assert rows[name]["time_ms"]["n"] == 2
    assert rows["flash"]["skipped"] == "it needs a CUDA GPU"
    assert done.report["chosen"]["backend"] == "sdpa"
    assert done.report["chosen"]["reason"]
    softmaxv = done.report["attn_softmaxv_bench"]
    assert softmaxv["eager"]["ok"] is True
    assert softmaxv["eager"]["bytes_moved"] == 4 * (4 * 48 * 48 + 2 * 4 * 48 * 16)
    assert softmaxv["fused"]["available"] is False
    assert softmaxv["fused"]["reason"] == "no CUDA GPU is visible to torch"
    assert done.report["environment"]["switches"]["MEDVLLM_ENABLE_TRITON_SOFTMAXV"] == "1"
    trace = Path(done.report["profile"]["trace_path"])
    assert trace.parent == tmp_path / "traces"
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert "softmaxv 1x4x48x48x16 fp32 / eager" in names


def test_without_the_switch_the_reason_names_it(run_benchmark: Any) -> None:
    done = run_benchmark("attention", *SMALL, "--attn-softmaxv-bench")
    assert done.report["attn_softmaxv_bench"]["fused"]["reason"] == "MEDVLLM_ENABLE_TRITON_SOFTMAXV=1 is not set"


def test_causal_grouped_heads_in_bf16(run_benchmark: Any) -> None:
    done = run_benchmark("attention", *SMALL, "--causal", "--kv-heads=2", "--dtype=bf16", "--batch=2")
    assert done.code == 0, done.stderr
    assert {row["case"] for row in done.report["attention"]} == {"attention 2x4x48x16 kv2 causal bf16"}


def test_heads_that_do_not_divide(run_benchmark: Any) -> None:
    done = run_benchmark("attention", *SMALL, "--kv-heads=3")
    assert done.code == 1
    assert done.stderr == "error: --heads must be a multiple of --kv-heads, got 4 and 3\n"
