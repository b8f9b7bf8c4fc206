"""Experiments as processes of this same command line: started, watched, stopped, and found again in the results."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from llenergymeasure.files import write_atomically
from medvllm_programs.config_text import to_yaml

__all__ = ["Child", "Job", "StoredRun", "find_run", "new_tag", "run_jobs", "start", "stop", "write_config"]

GRACE_S = 60.0  # for a run that was interrupted to finish its batch and write what it has


@dataclass(frozen=True, slots=True)
class Job:
    """One experiment to run."""

    name: str
    arguments: tuple[str, ...]  # of `lem experiment`
    tag: str | None = None  # extra_metadata.run of its configuration


@dataclass(slots=True)
class Child:
    """A job that runs, or has run."""

    job: Job
    process: subprocess.Popen[bytes]
    started_s: float = field(default_factory=time.monotonic)
    finished_s: float | None = None
    reader: threading.Thread | None = None

    @property
    def duration_s(self) -> float:
        """How long it has run, s."""
        return (self.finished_s or time.monotonic()) - self.started_s

    @property
    def exit_code(self) -> int:
        """The process's exit code; 128 and the signal's number for one that a signal ended."""
        code = self.process.returncode
        return 128 - code if code < 0 else code


@dataclass(frozen=True, slots=True)
class StoredRun:
    """An experiment found by its tag."""

    experiment_id: str
    status: str


def new_tag() -> str:
    """A tag that no other run has."""
    return uuid.uuid4().hex[:16]


def write_config(path: Path, base: Path, values: Mapping[str, Any]) -> Path:
    """Writes a configuration that extends `base`; `values` maps dotted keys to what it changes."""
    nested: dict[str, Any] = {"_extends": str(base.resolve())}
    for key, value in values.items():
        *sections, last = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    write_atomically(path, to_yaml(nested).encode())
    return path


def start(job: Job, *, prefix: str | None = None) -> Child:
    """Starts `lem experiment` in a session of its own, so that Ctrl-C reaches it through us alone.

    What it prints goes to our stderr; with a prefix, line by line behind it.
    """
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
    sys.stderr.flush()
    process = subprocess.Popen(
        [sys.executable, "-m", "llenergymeasure", "experiment", *job.arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if prefix else _stderr(),
        stderr=subprocess.STDOUT if prefix else None,
        env=environ,
        start_new_session=True,
    )
    child = Child(job, process)
    if prefix and process.stdout:
        child.reader = threading.Thread(target=_forward, args=(process.stdout, prefix), daemon=True)
        child.reader.start()
    return child


def _stderr() -> int:
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError):  # replaced by a stream without a file
        return subprocess.DEVNULL


def _forward(stream: IO[bytes], prefix: str) -> None:
    for line in stream:
        text = line.decode(errors="replace").rstrip().rsplit("\r", 1)[-1]
        if text:
            print(f"[{prefix}] {text}", file=sys.stderr, flush=True)


def run_jobs(
    jobs: Sequence[Job],
    *,
    parallel: int,
    on_start: Callable[[Job, int], None],
    on_end: Callable[[Child], None],
    on_running: Callable[[Child], None] = lambda _: None,
) -> list[Child]:
    """Runs jobs, `parallel` at a time, and returns them in the order given; stops all of them when interrupted.

    Args:
        jobs: what to run.
        parallel: how many run at once.
        on_start: called with each job and its number, from 0, before it starts.
        on_end: called with each child when it has ended.
        on_running: called with each child when it has been started.
    """
    waiting = deque(enumerate(jobs))
    running: dict[int, Child] = {}
    done: dict[int, Child] = {}
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                number, job = waiting.popleft()
                on_start(job, number)
                running[number] = start(job, prefix=job.name if parallel > 1 else None)
                on_running(running[number])
            for number, child in list(running.items()):
                if child.process.poll() is not None:
                    done[number] = _ended(running.pop(number))
                    on_end(child)
            if running:
                time.sleep(0.05)
    except BaseException as error:
        stop(list(running.values()), signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM)
        raise
    return [done[number] for number in range(len(jobs))]


def _ended(child: Child) -> Child:
    child.finished_s = time.monotonic()
    if child.reader is not None:
        child.reader.join(timeout=5)
    return child


def stop(children: Sequence[Child], number: signal.Signals) -> None:
    """Sends a signal to children and waits for them; those that do not end in time are killed with their own."""
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            child.process.send_signal(number)
    until = time.monotonic() + GRACE_S
    for child in children:
        try:
            child.process.wait(timeout=max(0.1, until - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()
        _ended(child)


def find_run(results_dir: Path, tag: str) -> StoredRun | None:
    """The experiment whose configuration has this tag; the newest, should there be several."""
    for path in sorted((results_dir / "raw").glob("*/state.json"), reverse=True):
        try:
            state = json.loads(path.read_bytes())
            if (state["config"].get("extra_metadata") or {}).get("run") == tag:
                return StoredRun(state["experiment_id"], state["status"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not a state, or one half there
            continue
    return None
