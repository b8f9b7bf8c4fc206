"""campaign, batch and schedule with a tiny model, as their users start them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llenergymeasure.campaigns.run import CampaignState
from llenergymeasure.results.store import ResultStore

Lem = Callable[..., Any]
Config = Callable[..., Path]


def start(environ: dict[str, str], folder: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "llenergymeasure", *map(str, arguments)],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], object], *, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.05)


def state_of(folder: Path, name: str) -> CampaignState:
    return CampaignState.model_validate_json((folder / "results" / "campaigns" / name / "state.json").read_bytes())


def test_a_campaign_warms_up_goes_on_after_a_failure_and_sums_up(
    lem: Lem, write_config: Config, tmp_path: Path
) -> None:
    paths = [
        write_config("a.yaml", config_name="a"),
        write_config("bad.yaml", config_name="bad", model_name=str(tmp_path / "nowhere")),
    ]
    quick = ("--cycles", 1, "--config-gap", 0, "--warmup-prompts", 4)
    ran = lem("campaign", *paths, "--campaign-name", "c", *quick, "-d", "builtin", "-n", 6)
    assert ran.code == 1
    assert "1 of 2 runs failed; the same command runs them again" in ran.stderr
    state = state_of(tmp_path, "c")
    assert [run.status for run in state.runs] == ["done", "failed"]
    store = ResultStore(tmp_path / "results")
    raw = store.raws(state.runs[0].experiment_id or "")[0].result
    assert raw.warmup is not None
    assert raw.warmup.requests >= 4
    assert raw.config["extra_metadata"]["campaign"] == "c"
    assert raw.prompts.requests == 6
    assert ran.stdout.splitlines()[2].split()[:2] == ["a", "1"]
    summary = json.loads((tmp_path / "results" / "campaigns" / "c" / "summary.json").read_text())
    assert set(summary["metrics"]) == {"a"}
    assert "bad: 1 of 1 runs have no result" in summary["notes"]
    assert store.verify(state.runs[0].experiment_id or "") == []


def test_parallel_batch(lem: Lem, write_config: Config, tmp_path: Path) -> None:
    write_config("grid_a.yaml", config_name="a")
    write_config("grid_b.yaml", config_name="b")
    ran = lem("batch", "grid_*.yaml", "--parallel", 2)
    assert ran.code == 0, ran.stderr
    assert "runs at once share the machine" in ran.stderr
    rows = [line.split() for line in ran.stdout.splitlines()[1:]]
    assert [row[:2] for row in rows] == [["grid_a.yaml", "done"], ["grid_b.yaml", "done"]]
    store = ResultStore(tmp_path / "results")
    assert sorted(row[2] for row in rows) == store.ids()
    assert sorted(store.load(each).config_name for each in store.ids()) == ["a", "b"]


def test_a_schedule_lets_the_run_finish_on_sigterm(
    write_config: Config, tmp_path: Path, subprocess_environment: dict[str, str]
) -> None:
    arguments = ("schedule", write_config(), "--interval", "1h", "-o", "results")
    with start(subprocess_environment, tmp_path, *arguments) as daemon:
        wait_for(lambda: list(tmp_path.glob("results/raw/*/state.json")))
        daemon.send_signal(signal.SIGTERM)
        out, err = daemon.communicate(timeout=120)
    assert daemon.returncode == 0, err
    assert "SIGTERM: the present run is finished first, then it ends" in err
    assert out == "1 run(s), 0 failed\n"
    assert len(list(tmp_path.glob("results/aggregated/*.json"))) == 1


def test_a_schedule_whose_runs_fail_fails(
    write_config: Config, tmp_path: Path, subprocess_environment: dict[str, str]
) -> None:
    config = write_config("missing.yaml", model_name=str(tmp_path / "nowhere"))
    with start(subprocess_environment, tmp_path, "schedule", config, "--interval", "1h", "--duration", "1s") as daemon:
        out, err = daemon.communicate(timeout=120)
    assert daemon.returncode == 1
    assert out == "1 run(s), 1 failed\n"
    assert "1 of 1 runs failed" in err


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_campaign_that_was_stopped_goes_on_where_it_was(
    write_config: Config, tmp_path: Path, subprocess_environment: dict[str, str], number: signal.Signals, code: int
) -> None:
    paths = [write_config(f"{name}.yaml", config_name=name) for name in ("a", "b")]
    command = (
        "campaign",
        *paths,
        "--campaign-name",
        "k",
        "-c",
        2,
        "--config-gap",
        0,
        "--cycle-gap",
        0,
        "-o",
        "results",
    )
    with start(subprocess_environment, tmp_path, *command) as first:
        wait_for(lambda: len(list(tmp_path.glob("results/raw/*/journal/*"))) == 2)  # the second run measures
        first.send_signal(number)
        _, err = first.communicate(timeout=120)
    assert first.returncode == code, err
    stopped = state_of(tmp_path, "k")
    assert [run.status for run in stopped.runs] == ["done", "running", "pending", "pending"]
    with start(subprocess_environment, tmp_path, *command) as second:
        out, err = second.communicate(timeout=240)
    assert second.returncode == 0, err
    assert "1 of 4 runs are done" in err
    state = state_of(tmp_path, "k")
    assert [run.status for run in state.runs] == ["done"] * 4
    assert state.runs[0].experiment_id == stopped.runs[0].experiment_id
    store = ResultStore(tmp_path / "results")
    assert sorted(run.experiment_id or "" for run in state.runs) == store.ids()  # none was begun twice
    assert "paired by cycle" in out
    with start(subprocess_environment, tmp_path, *command[:-2], "--dry-run") as planned:
        assert "about" in planned.communicate(timeout=60)[0]
