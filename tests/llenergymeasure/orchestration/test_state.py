"""The states of an experiment, and whether its processes are there."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llenergymeasure.errors import LemError
from llenergymeasure.orchestration.state import ExperimentState, ProcessRecord, StateStore, barrier
from llenergymeasure.results.schema import PromptSource

SOURCE = PromptSource(
    name="builtin", revision=None, split=None, column=None, requests=4, available=100, sha256="a" * 64
)


def created(store: StateStore, *, processes: int = 1, config_hash: str = "h") -> ExperimentState:
    return store.create(config={}, provenance={}, config_hash=config_hash, prompts=SOURCE, num_processes=processes)


def gone() -> ProcessRecord:
    """A process that has ended and left its record running."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return ProcessRecord.of_this_process(1).model_copy(update={"pid": process.pid})


def test_the_order_of_states(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    state = created(store)
    assert state.status == "initialised"
    with pytest.raises(LemError, match="can't become completed"):
        store.move(state, "completed")
    running = store.move(state, "running")
    assert running.attempt == 1
    failed = store.move(running, "failed", error="no memory")
    assert store.load(state.experiment_id).error == "no memory"
    again = store.move(failed, "running")
    assert (again.attempt, again.error) == (2, None)
    done = store.move(store.move(again, "completed"), "aggregated")
    with pytest.raises(LemError, match="is aggregated, it can't become running"):
        store.move(done, "running")


def test_ids_of_one_second_differ(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    ids = [created(store).experiment_id for _ in range(5)]
    assert len(set(ids)) == 5
    assert all(each.startswith("exp_20") for each in ids)


def test_an_experiment_whose_process_is_gone_can_run_on(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    running = store.move(created(store), "running")
    ours = {"config_hash": "h", "prompts_sha256": "a" * 64}
    assert store.running(running)
    assert store.incomplete(**ours) == []  # it is being run: by this very process
    stale = running.model_copy(update={"owner": gone()})
    store._write(stale)
    assert not store.running(stale)
    assert [each.experiment_id for each in store.incomplete(**ours)] == [running.experiment_id]
    assert store.incomplete(config_hash="other", prompts_sha256="a" * 64) == []
    assert store.incomplete(config_hash="h", prompts_sha256="b" * 64) == []
    store.write_process(running.experiment_id, 0, ProcessRecord.of_this_process(1))
    assert store.running(stale)  # the one that started it is gone, but not its process


def test_a_pid_used_again_is_another_process() -> None:
    record = ProcessRecord.of_this_process(1)
    assert record.alive
    assert record.pid == os.getpid()
    assert record.pid_started is not None
    assert not record.model_copy(update={"pid_started": record.pid_started - 60}).alive
    assert not record.model_copy(update={"ended": "failed"}).alive
    assert not gone().alive
    assert record.model_copy(update={"host": "elsewhere", "pid": 1}).alive  # can't be known


def test_processes_wait_for_each_other(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    experiment = created(store, processes=2).experiment_id
    met = []

    def come(process: int) -> None:
        record = ProcessRecord.of_this_process(1)
        store.write_process(experiment, process, record)
        barrier(store, experiment, process=process, record=record, name="ready", num_processes=2)
        met.append(process)

    first = threading.Thread(target=come, args=(0,))
    first.start()
    first.join(0.1)
    assert met == []
    come(1)
    first.join(10)
    assert sorted(met) == [0, 1]


def test_a_process_that_ended_is_not_waited_for(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    experiment = created(store, processes=2).experiment_id
    record = ProcessRecord.of_this_process(1)
    ended = {"ended": "failed", "error": "no such model"}
    store.write_process(experiment, 1, record.model_copy(update=ended))
    with pytest.raises(LemError, match="process 1 failed: no such model"):
        barrier(store, experiment, process=0, record=record, name="ready", num_processes=2)
    store.write_process(experiment, 1, gone())
    with pytest.raises(LemError, match="process 1 was killed"):
        barrier(store, experiment, process=0, record=record, name="ready", num_processes=2)
    store.write_process(experiment, 1, record.model_copy(update={"attempt": 7}))  # of another attempt: not yet there
    with pytest.raises(LemError, match=r"process 1 has not begun within 0\.1 s"):
        barrier(store, experiment, process=0, record=record, name="x", num_processes=2, start_timeout_s=0.1)


def test_what_is_not_there_or_damaged_says_so(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    known = created(store).experiment_id
    with pytest.raises(LemError, match=f"there is no experiment exp_x in .*{known}"):
        store.load("exp_x")
    (store.folder(known) / "state.json").write_text("{")
    with pytest.raises(LemError, match=r"state\.json is damaged"):
        store.load(known)
