"""Several processes: the prompts are shared out, each once, and process 0 or the parent puts the results together."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llenergymeasure.orchestration.launcher import experiment_arguments

Lem = Callable[..., Any]
Configure = Callable[..., Path]


def raw_results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("raw/*/process_*.json"))]


def check_two_processes(folder: Path, *, prompts: int) -> None:
    first, second = raw_results(folder)
    assert [request["index"] for request in first["requests"]] == list(range(0, prompts, 2))
    assert [request["index"] for request in second["requests"]] == list(range(1, prompts, 2))
    assert {first["process_index"], second["process_index"]} == {0, 1}
    assert first["num_processes"] == second["num_processes"] == 2
    assert first["prompts"] == second["prompts"]
    (marked,) = folder.glob("raw/*/")
    assert sorted(path.name for path in marked.glob(".completed_*")) == [".completed_0", ".completed_1"]
    (path,) = (folder / "aggregated").glob("*.json")
    whole = json.loads(path.read_text())
    assert whole["throughput"]["requests"] == prompts
    assert whole["complete"]
    state = json.loads((marked / "state.json").read_text())
    assert (state["status"], state["num_processes"]) == ("aggregated", 2)


def test_replicas_share_the_prompts_out(lem: Lem, write_config: Configure, tmp_path: Path) -> None:
    # the arrivals fix when each process runs: one that the machine holds up still runs beside the other
    traffic = {"enabled": True, "mode": "constant", "target_qps": 6}
    config = write_config(num_processes=2, gpus=[0, 1], max_output_tokens=24, traffic_simulation=traffic)
    done = lem(*experiment_arguments(["--config", str(config), "--dataset", "builtin", "-n", "7"]))
    assert done.code == 0, done.stderr
    check_two_processes(tmp_path / "results", prompts=7)


@pytest.mark.slow
def test_processes_of_a_launcher_find_each_other(
    write_config: Configure, tmp_path: Path, subprocess_environment: dict[str, str]
) -> None:
    config = write_config(max_output_tokens=24)
    command = [sys.executable, "-m", "llenergymeasure.orchestration.launcher", f"--config={config}", "-n", "6"]
    launched = []
    for rank in (1, 0):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": "29511"}
        launched.append(
            subprocess.Popen(
                command,
                cwd=tmp_path,
                env=subprocess_environment | ranks,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    said = [process.communicate(timeout=240) for process in launched]
    assert [process.returncode for process in launched] == [0, 0], said
    assert said[0][0] == ""  # process 0 alone prints the result
    assert "Requests      6 in" in said[1][0]
    check_two_processes(tmp_path / "results", prompts=6)
    assert not list((tmp_path / "results" / "raw").glob(".rendezvous*"))


@pytest.mark.slow
def test_accelerate_launch_shares_the_prompts_out(
    write_config: Configure, tmp_path: Path, subprocess_environment: dict[str, str]
) -> None:
    if shutil.which("accelerate", path=str(Path(sys.executable).parent)) is None:
        command = [sys.executable, "-m", "accelerate.commands.launch"]
    else:
        command = [str(Path(sys.executable).parent / "accelerate"), "launch"]
    config = write_config(max_output_tokens=24)
    command += ["--num_processes", "2", "-m", "llenergymeasure.orchestration.launcher"]
    command += ["--config", str(config), "--dataset", "builtin", "-n", "10"]
    done = subprocess.run(
        command, cwd=tmp_path, env=subprocess_environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    check_two_processes(tmp_path / "results", prompts=10)


@pytest.mark.slow
def test_a_failed_process_ends_the_others_and_is_named(lem: Lem, write_config: Configure, tmp_path: Path) -> None:
    config = write_config(num_processes=2, gpus=[0, 1], pytorch={"threads": -1})
    done = lem("experiment", config, "-y")
    assert done.code == 1
    assert "failed: pytorch.threads must be a positive number" in done.stderr
    (path,) = (tmp_path / "results" / "raw").glob("*/state.json")
    assert json.loads(path.read_text())["status"] == "failed"


@pytest.mark.slow
def test_ctrl_c_and_resume_with_two_processes(
    write_config: Configure, tmp_path: Path, subprocess_environment: dict[str, str]
) -> None:
    dataset = {"name": "builtin", "sample_size": 60}
    config = write_config(num_processes=2, gpus=[0, 1], max_output_tokens=24, dataset=dataset)
    lem = [sys.executable, "-m", "llenergymeasure", "experiment"]
    process = subprocess.Popen([*lem, str(config), "-y"], cwd=tmp_path, env=subprocess_environment)
    journals = tmp_path / "results" / "raw"
    while sum(path.read_bytes().count(b'"finished_s":') for path in journals.glob("*/journal/*.jsonl")) < 6:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    (path,) = journals.glob("*/state.json")
    state = json.loads(path.read_text())
    assert state["status"] == "interrupted"
    again = subprocess.run([*lem, "--resume", state["experiment_id"]], cwd=tmp_path, env=subprocess_environment)
    assert again.returncode == 0
    check_two_processes(tmp_path / "results", prompts=60)
    assert all(len(each["segments"]) == 2 for each in raw_results(tmp_path / "results"))
