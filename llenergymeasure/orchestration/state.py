"""Where an experiment stands, on disk: initialised → running → completed → aggregated.

    raw/<id>/state.json        the experiment: configuration, prompts, status; written by process 0
    raw/<id>/process_N.lock    process N of the latest attempt: its pid and how far it is

A failed or interrupted experiment may run again. One that says running but whose processes are gone (SIGKILL, power
cut) counts as interrupted: a process is known by its pid and start time, for pids are used again.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from llenergymeasure.errors import LemError
from llenergymeasure.files import make_folder, write_atomically
from llenergymeasure.hardware.environment import host_id
from llenergymeasure.results.schema import PromptSource
from medvllm_programs.files import shown

__all__ = ["ExperimentState", "ProcessRecord", "StateStore", "Status", "barrier", "now", "process_started"]

Status = Literal["initialised", "running", "completed", "aggregated", "failed", "interrupted"]
_FOLLOWS: dict[Status, tuple[Status, ...]] = {
    "initialised": ("running", "failed", "interrupted"),
    "running": ("running", "completed", "failed", "interrupted"),
    "completed": ("aggregated", "running"),
    "failed": ("running",),
    "interrupted": ("running",),
    "aggregated": (),
}
INCOMPLETE: tuple[Status, ...] = ("initialised", "running", "failed", "interrupted")


def now() -> str:
    """The present, ISO 8601 in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


class ProcessRecord(BaseModel):
    """One process of an attempt."""

    model_config = ConfigDict(extra="forbid")

    attempt: int
    host: str
    pid: int
    pid_started: float | None  # Unix time of the process's start, which tells it from a later one of the same pid
    reached: list[str] = []  # the barriers it has come to
    ended: Literal["completed", "failed", "interrupted"] | None = None
    error: str | None = None

    @classmethod
    def of_this_process(cls, attempt: int) -> ProcessRecord:
        """The record of the process that calls."""
        pid = os.getpid()
        return cls(attempt=attempt, host=host_id(), pid=pid, pid_started=process_started(pid))

    @property
    def alive(self) -> bool:
        """Whether it still runs; of another machine that can't be known, so it counts as running until it has ended."""
        if self.ended is not None:
            return False
        if self.host != host_id():
            return True
        started = process_started(self.pid)
        return started is not None and (self.pid_started is None or abs(started - self.pid_started) < 1.0)


class ExperimentState(BaseModel):
    """What is needed to run an experiment on, and how far it is."""

    model_config = ConfigDict(extra="forbid")

    experiment_id: str
    status: Status = "initialised"
    attempt: int = 0  # how often it was started
    num_processes: int
    created_at: str
    updated_at: str
    config: dict[str, Any]  # effective
    provenance: dict[str, str]
    config_hash: str
    prompts: PromptSource
    owner: ProcessRecord | None = None  # who started it last, and starts its processes
    error: str | None = None


def process_started(pid: int) -> float | None:
    """When a process started, Unix time; None where there is none of that pid."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:  # killed, and not yet waited for by its parent
            return None
        return float(process.create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:  # somebody else's: it is there
        return 0.0


class StateStore:
    """The states of the experiments in a results folder."""

    def __init__(self, results_dir: Path) -> None:
        self.root = results_dir

    def folder(self, experiment_id: str) -> Path:
        """`raw/<id>`."""
        return self.root / "raw" / experiment_id

    def journal_path(self, experiment_id: str, process: int, cycle: int) -> Path:
        """What a process has finished of a cycle."""
        return self.folder(experiment_id) / "journal" / f"cycle_{cycle}_process_{process}.jsonl"

    def create(
        self,
        *,
        config: dict[str, Any],
        provenance: dict[str, str],
        config_hash: str,
        prompts: PromptSource,
        num_processes: int,
    ) -> ExperimentState:
        """A new experiment; its id is the time, with a number where that second is taken.

        Raises:
            LemError: the results folder can't be written.
        """
        make_folder(self.root / "raw")
        stamp = datetime.datetime.now().strftime("exp_%Y%m%d_%H%M%S")
        for number in range(1, 1000):
            experiment_id = stamp if number == 1 else f"{stamp}_{number}"
            try:
                self.folder(experiment_id).mkdir()
            except FileExistsError:
                continue
            except OSError as error:
                raise LemError(f"can't make {shown(self.folder(experiment_id))}: {error.strerror}") from error
            state = ExperimentState(
                experiment_id=experiment_id,
                num_processes=num_processes,
                created_at=now(),
                updated_at=now(),
                config=config,
                provenance=provenance,
                config_hash=config_hash,
                prompts=prompts,
                owner=ProcessRecord.of_this_process(0),
            )
            try:
                self._write(state)
            except LemError:
                self.folder(experiment_id).rmdir()
                raise
            return state
        raise LemError(f"there are a thousand experiments {stamp}_… already; wait a second")

    def load(self, experiment_id: str) -> ExperimentState:
        """The state of an experiment.

        Raises:
            LemError: there is none of that id (names the nearest), or its file is damaged.
        """
        path = self.folder(experiment_id) / "state.json"
        try:
            return ExperimentState.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise LemError(f"there is no experiment {experiment_id} in {shown(self.root)}{self._near()}") from error
        except OSError as error:
            raise LemError(f"can't read {shown(path)}: {error.strerror}") from error
        except ValidationError as error:
            raise LemError(f"{shown(path)} is damaged; start the experiment with --fresh") from error

    def move(self, state: ExperimentState, status: Status, *, error: str | None = None) -> ExperimentState:
        """The state with another status, on disk.

        Raises:
            LemError: that does not follow on the present status, or can't be written.
        """
        if status not in _FOLLOWS[state.status]:
            raise LemError(f"{state.experiment_id} is {state.status}, it can't become {status}")
        changes: dict[str, Any] = {"status": status, "updated_at": now(), "error": error}
        if status == "running":
            attempt = state.attempt + 1
            changes |= {"attempt": attempt, "owner": ProcessRecord.of_this_process(attempt)}
        moved = state.model_copy(update=changes)
        self._write(moved)
        return moved

    def incomplete(self, *, config_hash: str, prompts_sha256: str) -> list[ExperimentState]:
        """Experiments of this configuration and these prompts that ended before their end, the newest last."""
        found = []
        for state in self._all():
            same = state.config_hash == config_hash and state.prompts.sha256 == prompts_sha256
            if same and state.status in INCOMPLETE and not self.running(state):
                found.append(state)
        return found

    def running(self, state: ExperimentState) -> list[ProcessRecord]:
        """The processes of its latest attempt that are alive, the one that started it among them."""
        if state.status not in ("initialised", "running"):
            return []
        records = [self.read_process(state.experiment_id, index) for index in range(state.num_processes)]
        own = [each for each in records if each is not None and each.attempt == state.attempt]
        return [each for each in (state.owner, *own) if each is not None and each.alive]

    def write_process(self, experiment_id: str, process: int, record: ProcessRecord) -> None:
        """Says how far a process is."""
        write_atomically(self._process_path(experiment_id, process), record.model_dump_json().encode() + b"\n")

    def read_process(self, experiment_id: str, process: int) -> ProcessRecord | None:
        """How far a process is; None where it has not begun."""
        try:
            return ProcessRecord.model_validate_json(self._process_path(experiment_id, process).read_bytes())
        except (OSError, ValidationError):
            return None

    def _process_path(self, experiment_id: str, process: int) -> Path:
        return self.folder(experiment_id) / f"process_{process}.lock"

    def _write(self, state: ExperimentState) -> None:
        path = self.folder(state.experiment_id) / "state.json"
        write_atomically(path, state.model_dump_json(indent=1).encode() + b"\n")

    def _all(self) -> Iterator[ExperimentState]:
        for path in sorted((self.root / "raw").glob("*/state.json")):
            try:
                yield ExperimentState.model_validate_json(path.read_bytes())
            except (OSError, ValidationError):  # of a newer lem, or damaged: not one to run on
                continue

    def _near(self) -> str:
        ids = [state.experiment_id for state in self._all() if state.status in INCOMPLETE]
        return f"; incomplete are: {', '.join(ids[-3:])}" if ids else ""


def barrier(
    store: StateStore,
    experiment_id: str,
    *,
    process: int,
    record: ProcessRecord,
    name: str,
    num_processes: int,
    start_timeout_s: float = 300.0,
) -> ProcessRecord:
    """Waits until every process of the attempt has come to `name`; this one's record.

    One that runs is waited for as long as it takes, one that has not begun for `start_timeout_s`.

    Raises:
        LemError: another process failed, is gone, or has not begun in time.
    """
    record = record.model_copy(update={"reached": [*record.reached, name]})
    store.write_process(experiment_id, process, record)
    until = time.monotonic() + start_timeout_s
    missing = [each for each in range(num_processes) if each != process]
    while missing:
        present = {each: _of_attempt(store, experiment_id, each, record.attempt) for each in missing}
        missing = [each for each, other in present.items() if other is None or name not in other.reached]
        for each in missing:
            other = present[each]
            if other is not None and not other.alive:
                raise LemError(f"process {each} {other.ended or 'was killed'}: {other.error or 'it left no message'}")
            if other is None and time.monotonic() > until:
                raise LemError(f"process {each} has not begun within {start_timeout_s:g} s; see its messages")
        if missing:
            time.sleep(0.02)
    return record


def _of_attempt(store: StateStore, experiment_id: str, process: int, attempt: int) -> ProcessRecord | None:
    record = store.read_process(experiment_id, process)
    return record if record is not None and record.attempt == attempt else None
