"""`lem experiment` in one process: what it prints, writes, refuses, and how it exits."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Lem = Callable[..., Any]
Configure = Callable[..., Path]


def raw_results(folder: Path) -> list[dict[str, Any]]:
    found = sorted(folder.rglob("process_*.json"))
    return [json.loads(path.read_text()) for path in found]


def aggregated(folder: Path) -> dict[str, Any]:
    (path,) = (each for each in (folder / "aggregated").glob("*.json") if "multi_cycle" not in each.name)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_quick_test_runs_from_the_shipped_prompts(
    lem: Lem, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    command = ["experiment", "--preset", "quick-test", "--model", tiny_model, "-d", "builtin", "-n", 4, "-y"]
    done = lem(*command, "--max-tokens", 6)
    assert done.code == 0, done.stderr
    result = aggregated(tmp_path / "results")
    assert result["experiment_id"] in done.stdout
    assert "Requests      4 in" in done.stdout
    assert "measuring: 4/4 requests" in done.stderr
    assert result["throughput"]["requests"] == 4
    (raw,) = raw_results(tmp_path / "results" / "raw")
    assert [request["index"] for request in raw["requests"]] == [0, 1, 2, 3]
    assert all(request["output_tokens"] <= 6 for request in raw["requests"])
    assert raw["provenance"]["max_output_tokens"] == "cli --max-tokens"
    assert raw["provenance"]["max_input_tokens"] == "preset quick-test"
    assert raw["config"]["num_input_prompts"] == 4
    assert raw["prompts"]["sha256"] == result["prompts"]["sha256"]
    assert raw["compute"]["flops_total"] > 0
    assert raw["compute"]["peak_memory_mib"] > 50
    assert raw["segments"][0]["prefill_s"] > 0
    state = json.loads((tmp_path / "results" / "raw" / result["experiment_id"] / "state.json").read_text())
    assert state["status"] == "aggregated"
    assert lem("verify", result["experiment_id"]).code == 0
    written = "".join(path.read_text() for path in (tmp_path / "results").rglob("*") if path.is_file())
    for kept_out in ("hf_secret", "Explain in plain", '"output":"'):  # the token, a prompt, a completion
        assert kept_out not in written.replace('": "', '":"')


def test_energy_that_cannot_be_read_is_null_with_a_reason(
    lem: Lem, write_config: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llenergymeasure.energy.rapl.POWERCAP", tmp_path / "nothing")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = lem("experiment", write_config(), "-y")
    assert done.code == 0, done.stderr
    (raw,) = raw_results(tmp_path / "results" / "raw")
    for name in ("gpu", "total", "net", "prefill", "decode", "carbon"):
        component = raw["energy"][name]
        if component["quality"] == "unavailable":
            assert component["value"] is None
            assert component["reason"]
    assert raw["energy"]["gpu"]["value"] is None
    assert "Energy        " in done.stdout
    assert "0 J" not in done.stdout


def test_the_throughput_preset_runs_batches_of_8(lem: Lem, tiny_model: Path, tmp_path: Path) -> None:
    command = ["experiment", "--preset", "throughput", "-m", tiny_model, "-d", "builtin", "-n", 20, "-y"]
    config = tmp_path / "short.yaml"  # a file goes over the preset: its batches stay the preset's
    config.write_text(json.dumps({"config_name": "t", "warmup": {"max": 1, "min": 1}, "fp_precision": "float32"}))
    done = lem(*command, config, "--max-tokens", 4)
    assert done.code == 0, done.stderr
    (raw,) = raw_results(tmp_path / "results" / "raw")
    batches = [request["batch"] for request in raw["requests"]]
    assert [batches.count(number) for number in sorted(set(batches))] == [8, 8, 4]


def test_streaming_measures_latency_without_its_warmup(lem: Lem, write_config: Configure, tmp_path: Path) -> None:
    done = lem("experiment", write_config(), "--streaming", "--streaming-warmup", 3, "-y")
    assert done.code == 0, done.stderr
    (raw,) = raw_results(tmp_path / "results" / "raw")
    assert raw["warmup"]["requests"] == 1 + 3
    assert len(raw["requests"]) == 6  # none of the warm-up
    for request in raw["requests"]:
        assert request["output_tokens"] <= 8
        assert len(request["itl_ms"]) == request["output_tokens"] - 1
    latencies = aggregated(tmp_path / "results")["latencies"]
    assert latencies["ttft_ms"]["samples"] == 6
    assert latencies["itl_full_ms"]["samples"] - latencies["itl_ms"]["samples"] == 2 * 6
    assert "TTFT" in done.stdout


def test_warm_up_goes_on_until_times_settle(
    lem: Lem, write_config: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llenergymeasure.orchestration.progress.PLAIN_EVERY_S", 0.0)
    config = write_config(warmup={"cv_threshold": 1000, "window": 3, "min": 2, "max": 9})
    assert lem("experiment", config, "-n", 2, "-y").code == 0
    (raw,) = raw_results(tmp_path / "results" / "raw")
    assert (raw["warmup"]["requests"], raw["warmup"]["settled"]) == (3, True)  # a window is needed to tell
    strict = write_config(warmup={"cv_threshold": 1e-9, "window": 3, "min": 2, "max": 4})
    done = lem("experiment", strict, "-n", 2, "-y", "-o", "strict", "--streaming", "--streaming-warmup", 2)
    (raw,) = raw_results(tmp_path / "strict" / "raw")
    assert (raw["warmup"]["requests"], raw["warmup"]["settled"]) == (4 + 2, False)
    assert "the times still varied" in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("warming up")] == [
        "warming up",
        "warming up: 1/3",
        "warming up: 2/3",
        "warming up: 3/3",
        "warming up: 4, at most 4; the times still vary",
        "warming up: 1/2 streamed requests",
        "warming up: 2/2 streamed requests",
    ]


def test_cycles_repeat_the_same_requests(lem: Lem, write_config: Configure, tmp_path: Path) -> None:
    done = lem("experiment", write_config(save_outputs=True), "--cycles", 2, "-n", 3, "-y", "--seed", 0)
    assert done.code == 0, done.stderr
    first, second = raw_results(tmp_path / "results" / "raw")
    assert (first["cycle"], second["cycle"]) == (0, 1)
    assert [each["output"] for each in first["requests"]] == [each["output"] for each in second["requests"]]
    assert first["config"]["random_seed"] == 0
    assert list((tmp_path / "results" / "aggregated").glob("*_multi_cycle.json"))


def test_traffic_arrives_at_its_rate(lem: Lem, write_config: Configure, tmp_path: Path) -> None:
    traffic = {"enabled": True, "mode": "constant"}
    config = write_config(traffic_simulation=traffic, query_rate=8, max_output_tokens=2)
    assert lem("experiment", config, "-n", 4, "-y").code == 0
    (raw,) = raw_results(tmp_path / "results" / "raw")
    starts = [request["started_s"] for request in raw["requests"]]
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert gaps == pytest.approx([0.125] * 3, abs=1e-6)  # measured from the arrival, however long the queue
    assert all(request["finished_s"] > request["started_s"] for request in raw["requests"])


def test_a_dry_run_shows_values_with_their_origin_and_writes_nothing(
    lem: Lem, write_config: Configure, tmp_path: Path
) -> None:
    done = lem("experiment", write_config(), "--max-tokens", 5, "--dry-run")
    assert done.code == 0, done.stderr
    lines = [line.split("#") for line in done.stdout.splitlines()]
    said = {text.split(":")[0]: (text.split(": ", 1)[1].strip(), where.strip()) for text, where in lines}
    assert said["max_output_tokens"] == ("5", "cli --max-tokens")
    assert said["max_input_tokens"][0] == "64"
    assert "tiny.yaml" in said["max_input_tokens"][1]
    assert said["num_cycles"] == ("1", "default")
    assert not (tmp_path / "results").exists()
    hub = lem("experiment", "--preset", "benchmark", "-m", "meta-llama/Llama-2-7b-hf", "-d", "alpaca", "--dry-run")
    assert hub.code == 0, hub.stderr  # neither the model nor the data set is needed for it


def test_results_without_aggregation(lem: Lem, write_config: Configure, tmp_path: Path) -> None:
    done = lem("experiment", write_config(), "-n", 2, "--no-aggregate", "-y", "-o", "elsewhere")
    assert done.code == 0, done.stderr
    assert "lem aggregate exp_" in done.stdout
    assert not (tmp_path / "elsewhere" / "aggregated").exists()
    experiment = next((tmp_path / "elsewhere" / "raw").glob("exp_*")).name
    resumed = lem("experiment", "--resume", experiment, "-o", "elsewhere")  # what is left is to aggregate
    assert resumed.code == 0, resumed.stderr
    assert aggregated(tmp_path / "elsewhere")["throughput"]["requests"] == 2


def test_deprecated_flags_work_and_say_what_replaces_them(lem: Lem, write_config: Configure) -> None:
    flags = ["-b", 3, "--precision", "bfloat16", "--gpu-list", "0,1", "--num-processes", 2, "--temperature", 0.5]
    done = lem("experiment", write_config(), *flags, "--no-quantization", "--dry-run")
    assert done.code == 0, done.stderr
    for replacement in ("batching.batch_size", "fp_precision", "gpus", "num_processes", "decoder.temperature"):
        assert f"is deprecated; set {replacement} in the configuration" in done.stderr
    assert "batching.batch_size: 3" in done.stdout
    assert "num_processes: 2" in done.stdout
    assert 'fp_precision: "bfloat16"' in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "give a configuration file, or --preset with --model, or --resume ID"),
        (["--preset", "quick-test"], 2, "needs a model"),
        (["nowhere.yaml"], 1, "there is no configuration file nowhere.yaml"),
        (["--preset", "quick-test", "-m", "/no/model", "-d", "builtin"], 1, "there is no folder '/no/model'"),
        (["--preset", "quick-test", "-m", "no/such", "-d", "builtin"], 1, "hf download no/such"),
        (["--resume", "exp_20200101_000000"], 1, "there is no experiment exp_20200101_000000"),
        (["--resume", "x", "--fresh"], 2, "--fresh starts anew and --resume goes on"),
        (["--cycles", "11"], 2, "11"),
        (["--backend", "llama"], 2, "llama"),
    ],
)
def test_wrong_command_lines_say_what_is_wrong(lem: Lem, arguments: list[str], code: int, said: str) -> None:
    began = time.monotonic()
    done = lem("experiment", *arguments, "-y")
    assert (done.code, done.stdout) == (code, "")
    assert said in done.stderr
    assert time.monotonic() - began < 5
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"min_output_tokens": 9}, 1, "run all the same with --force"),
        ({"timeseries": {"save": True}}, 1, "the configuration has warnings; run all the same with --yes"),
        ({"batch_sise": 2}, 2, "no such key"),
        ({"backend": "vllm", "pytorch": {}}, 1, "a section of pytorch, but the backend is vllm"),
        ({"backend": "tensorrt"}, 1, "TensorRT-LLM does not run float32"),
    ],
)
def test_findings_block_without_leave(
    lem: Lem, write_config: Configure, changes: dict[str, Any], code: int, said: str
) -> None:
    done = lem("experiment", write_config(**changes))
    assert done.code == code
    assert said in done.stderr
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("library", "changes", "said"),
    [
        (
            "bitsandbytes",
            {"quantization": {"load_in_4bit": True}},
            "to load weights in 4 bits; install it: pip install",
        ),
        ("peft", {"adapter": "somewhere"}, "for an adapter; install it: pip install peft"),
    ],
)
def test_what_must_be_installed_is_told_before_anything_runs(
    lem: Lem, write_config: Configure, library: str, changes: dict[str, Any], said: str
) -> None:
    if importlib.util.find_spec(library) is not None:
        pytest.skip(f"{library} is installed")
    done = lem("experiment", write_config(**changes), "-y")
    assert done.code == 1
    assert f"needs {library} {said}" in done.stderr
    assert not Path("results").exists()


def test_a_failing_run_exits_1_and_its_state_says_why(lem: Lem, write_config: Configure, tmp_path: Path) -> None:
    done = lem("experiment", write_config(pytorch={"threads": -1}), "-y")
    assert done.code == 1
    assert "pytorch.threads must be a positive number, got -1" in done.stderr
    (path,) = (tmp_path / "results" / "raw").glob("*/state.json")
    state = json.loads(path.read_text())
    assert (state["status"], state["error"]) == ("failed", "pytorch.threads must be a positive number, got -1")
    assert not list((tmp_path / "results").rglob("process_*.json"))


def test_a_folder_that_cannot_be_written(lem: Lem, write_config: Configure, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = lem("experiment", write_config(), "-y", "-o", "file/results")
    assert done.code == 1
    assert "file" in done.stderr
    if os.geteuid() != 0:
        (tmp_path / "sealed").mkdir(mode=0o500)
        assert lem("experiment", write_config(), "-y", "-o", "sealed/results").code == 1


def test_a_required_baseline_that_cannot_be_measured_is_an_error(lem: Lem, write_config: Configure) -> None:
    from llenergymeasure.energy import open_meter

    with open_meter(gpus=[0], estimator=None, interval_s=0.1) as meter:
        if meter.has_sensors:
            pytest.skip("this machine has energy sensors")
    done = lem("experiment", write_config(baseline={"required": True}), "-y")
    assert done.code == 1
    assert "a baseline is required, but idle power can't be measured" in done.stderr
