"""Interrupted and killed experiments run on: no request lost, none repeated, their segments kept."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Lem = Callable[..., Any]
Configure = Callable[..., Path]
PROMPTS = 24


@pytest.fixture
def slow_config(write_config: Configure) -> Path:
    """An experiment of one or two seconds, and of a dozen batches."""
    return in_batches_of_two(write_config, PROMPTS)


def in_batches_of_two(write_config: Configure, prompts: int) -> Path:
    dataset = {"name": "builtin", "sample_size": prompts}
    return write_config(batching={"batch_size": 2}, dataset=dataset, max_output_tokens=24, save_outputs=True)


def start(environment: dict[str, str], folder: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "llenergymeasure", "experiment", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished_requests(folder: Path) -> int:
    journals = (folder / "results" / "raw").glob("*/journal/*.jsonl")
    return sum(path.read_bytes().count(b'"finished_s":') for path in journals)


def wait_for_requests(process: subprocess.Popen[str], folder: Path, count: int) -> bool:
    """Waits until so many requests are in the journal; False where the run ended before."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if process.poll() is not None:
            return False
        if finished_requests(folder) >= count:
            return True
        time.sleep(0.005)
    raise AssertionError("the experiment did not get on")


def state_of(folder: Path) -> dict[str, Any]:
    (path,) = (folder / "results" / "raw").glob("*/state.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def result_of(folder: Path) -> dict[str, Any]:
    (path,) = (folder / "results" / "raw").glob("*/process_0.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def outputs_without_interruption(lem: Lem, config: Path) -> dict[str, str]:
    assert lem("experiment", config, "-y", "--fresh", "-o", "whole").code == 0
    (path,) = Path("whole/raw").glob("*/process_0.json")
    return {request["id"]: request["output"] for request in json.loads(path.read_text())["requests"]}


def killed_and_resumed(
    lem: Lem, environment: dict[str, str], folder: Path, config: Path, *, prompts: int, kills: int, seed: int
) -> dict[str, Any]:
    """The result after SIGKILL at so many random points; the last resumption is in this process."""
    chance = random.Random(seed)
    killed = 0
    while killed < kills:
        again = ["--resume", state_of(folder)["experiment_id"]] if killed else [config]
        process = start(environment, folder, *again, "-y")
        done = finished_requests(folder)
        late = done + chance.randint(1, max(1, (prompts - 2 - done) // (kills - killed)))
        assert late < prompts, "it ran further than this before it was killed: too few prompts for so many kills"
        assert wait_for_requests(process, folder, late), process.communicate()
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.communicate()
        killed += 1
        assert state_of(folder)["status"] == "running"  # nobody was there to say otherwise
    resumed = lem("experiment", "--resume", state_of(folder)["experiment_id"])
    assert resumed.code == 0, resumed.stderr
    return result_of(folder)


def check_complete(result: dict[str, Any], *, kills: int, outputs: dict[str, str]) -> None:
    assert sorted(request["index"] for request in result["requests"]) == list(range(len(outputs)))
    assert {request["id"]: request["output"] for request in result["requests"]} == outputs
    segments = result["segments"]
    assert len(segments) == kills + 1
    assert sum(segment["requests"] for segment in segments) == len(outputs)
    assert [segment["finished_at"] is None for segment in segments] == [True] * kills + [False]
    for segment in segments[:-1]:
        assert segment["energy"]["total"]["value"] is None
        assert "killed" in segment["energy"]["total"]["reason"]
    assert result["energy"]["total"]["value"] is None
    assert any("was killed: its energy is not known" in warning for warning in result["warnings"])
    assert result["throughput"]["duration_s"] == pytest.approx(sum(each["duration_s"] for each in segments))


def test_killed_it_runs_on(lem: Lem, slow_config: Path, tmp_path: Path, subprocess_environment: dict[str, str]) -> None:
    result = killed_and_resumed(lem, subprocess_environment, tmp_path, slow_config, prompts=PROMPTS, kills=1, seed=1)
    check_complete(result, kills=1, outputs=outputs_without_interruption(lem, slow_config))
    assert state_of(tmp_path)["status"] == "aggregated"
    complete = lem("experiment", "--resume", state_of(tmp_path)["experiment_id"])
    assert complete.code == 1
    assert "is complete; see it with: lem results show" in complete.stderr


@pytest.mark.slow
def test_killed_at_ten_points_it_runs_on(
    lem: Lem, write_config: Configure, tmp_path: Path, subprocess_environment: dict[str, str]
) -> None:
    """Of 48 batches: each start makes one at least, and some more before its kill comes."""
    config = in_batches_of_two(write_config, 96)
    result = killed_and_resumed(lem, subprocess_environment, tmp_path, config, prompts=96, kills=10, seed=2)
    check_complete(result, kills=10, outputs=outputs_without_interruption(lem, config))


def interrupt_at(folder: Path, count: int, number: signal.Signals = signal.SIGINT) -> threading.Thread:
    """Sends this process a signal, Ctrl-C's by default, once so many requests are in the journal."""

    def watch() -> None:
        until = time.monotonic() + 120
        while finished_requests(folder) < count and time.monotonic() < until:
            time.sleep(0.005)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_ctrl_c_keeps_what_is_done_and_the_next_start_runs_on(lem: Lem, slow_config: Path, tmp_path: Path) -> None:
    thread = interrupt_at(tmp_path, 4)
    interrupted = lem("experiment", slow_config, "-y")
    thread.join()
    assert interrupted.code == 130
    stderr = interrupted.stderr
    state = state_of(tmp_path)
    assert state["status"] == "interrupted"
    assert f"lem experiment --resume {state['experiment_id']} goes on" in stderr
    assert "Traceback" not in stderr
    assert not list((tmp_path / "results").rglob("process_*.json"))  # no half result
    done = finished_requests(tmp_path)
    assert 4 <= done < PROMPTS

    other = lem("experiment", slow_config, "-y", "--seed", 5, "--dry-run")
    assert other.code == 0
    refused = lem("experiment", "--resume", state["experiment_id"], "--max-tokens", 3)
    assert (refused.code, "--max-tokens can't be given with it" in refused.stderr) == (2, True)
    unlike = lem("experiment", slow_config, "--seed", 5, "--resume", state["experiment_id"])
    assert (unlike.code, "started with another configuration" in unlike.stderr) == (1, True)

    again = lem("experiment", slow_config, "-y")  # the same experiment: it is run on without being asked to
    assert again.code == 0, again.stderr
    assert f"{state['experiment_id']} has the same configuration and prompts" in again.stderr
    assert f"{PROMPTS - done} requests left of {PROMPTS}" in again.stderr
    result = result_of(tmp_path)
    assert sorted(request["index"] for request in result["requests"]) == list(range(PROMPTS))
    first, second = result["segments"]
    assert (first["requests"], second["requests"]) == (done, PROMPTS - done)
    assert first["duration_s"] > 0
    assert first["finished_at"] is not None
    assert "killed" not in (first["energy"]["total"]["reason"] or "")  # it was read when the run was interrupted
    assert lem("verify", state["experiment_id"]).code == 0


def test_sigterm_is_an_interruption_too(lem: Lem, slow_config: Path, tmp_path: Path) -> None:
    thread = interrupt_at(tmp_path, 4, signal.SIGTERM)
    stopped = lem("experiment", slow_config, "-y")
    thread.join()
    assert stopped.code == 143
    state = state_of(tmp_path)
    assert state["status"] == "interrupted"
    assert f"lem experiment --resume {state['experiment_id']} goes on" in stopped.stderr


def test_a_disk_that_fills_up_leaves_what_was_finished(
    lem: Lem, slow_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))  # a file may not grow past it: the journal does
    try:
        full = lem("experiment", slow_config, "-y")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert full.code == 1
    assert "can't write" in full.stderr
    assert not list((tmp_path / "results").rglob("process_*.json"))
    done = finished_requests(tmp_path)
    assert 0 < done < PROMPTS
    again = lem("experiment", slow_config, "-y")
    assert again.code == 0, again.stderr
    result = result_of(tmp_path)
    assert sorted(request["index"] for request in result["requests"]) == list(range(PROMPTS))
    assert result["segments"][0]["requests"] == done


def test_resume_refuses_other_values_and_shows_its_own(lem: Lem, write_config: Configure, tmp_path: Path) -> None:
    assert lem("experiment", write_config(pytorch={"threads": -1}, random_seed=7), "-y").code == 1
    before = state_of(tmp_path)
    for option, name in ((["--seed", 0], "--seed"), (["--no-streaming"], "--streaming")):
        refused = lem("experiment", "--resume", before["experiment_id"], *option)
        assert refused.code == 2
        assert f"{name} can't be given with it" in refused.stderr
    shown = lem("experiment", "--resume", before["experiment_id"], "--dry-run")
    assert shown.code == 0, shown.stderr
    assert "random_seed: 7 " in shown.stdout
    assert state_of(tmp_path) == before


def test_prompts_that_changed_are_not_run_on(
    lem: Lem, write_config: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\n")
    config = write_config(dataset=None, pytorch={"threads": -1})
    assert lem("experiment", config, "-p", "prompts.txt", "-y").code == 1
    experiment = state_of(tmp_path)["experiment_id"]
    prompts.write_text("one\nthree\n")
    refused = lem("experiment", "--resume", experiment)
    assert refused.code == 1
    assert f"are not those {experiment} was started with" in refused.stderr
    fresh = lem("experiment", config, "-p", "prompts.txt", "-y")  # other prompts: another experiment
    assert "has the same configuration" not in fresh.stderr
    prompts.write_text("one\ntwo\n")
    same = lem("experiment", config, "-p", "prompts.txt", "-y")
    assert f"{experiment} has the same configuration and prompts" in same.stderr
    anew = lem("experiment", config, "-p", "prompts.txt", "-y", "--fresh")
    assert "has the same configuration" not in anew.stderr
