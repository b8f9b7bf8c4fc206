"""Starting an experiment's processes: here, as children of this one, or as accelerate and torchrun started them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llenergymeasure.errors import LemError
from llenergymeasure.files import make_folder, write_atomically
from llenergymeasure.orchestration.experiment import Experiment, aggregate, guarded, run_process
from llenergymeasure.orchestration.state import StateStore

if TYPE_CHECKING:
    from llenergymeasure.results.schema import AggregatedResult

__all__ = ["Ranks", "accelerate_processes", "launch", "launch_rank", "read_ranks", "wait_for_experiment"]

RENDEZVOUS_S = 300.0  # for process 0 to read its configuration and prompts
STOP_S = 60.0  # for a process to put its state on disk after SIGINT, before it is killed


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which of how many processes this is, as accelerate and torchrun say."""

    rank: int
    world_size: int


def read_ranks(environ: Mapping[str, str] = os.environ) -> Ranks:
    """RANK and WORLD_SIZE; one of one where they are not set.

    Raises:
        LemError: they contradict each other, or the processes are on several machines.
    """
    try:
        rank, world = int(environ.get("RANK", 0)), int(environ.get("WORLD_SIZE", 1))
        local = int(environ.get("LOCAL_WORLD_SIZE", world))
    except ValueError as error:
        raise LemError(f"RANK, WORLD_SIZE and LOCAL_WORLD_SIZE must be numbers: {error}") from error
    if not 0 <= rank < world:
        raise LemError(f"RANK must be in [0, WORLD_SIZE={world}), got {rank}")
    if local != world:
        raise LemError(f"all processes must be on one machine, got {local} of {world} here; start one lem on each")
    return Ranks(rank, world)


def accelerate_processes() -> int | None:
    """How many processes `accelerate launch --num_processes N` was asked for, where it started this one alone.

    Without GPUs accelerate (1.15) starts a single process and does not pass the number on, so it is read from the
    command line of the parent.
    """
    import psutil

    try:
        line = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return None
    if not any("accelerate" in Path(part).name or part.startswith("accelerate.") for part in line[:4]):
        return None
    for place, part in enumerate(line):
        name, _, value = part.partition("=")
        if name in ("--num_processes", "--num-processes"):
            value = value or (line[place + 1] if place + 1 < len(line) else "")
            return int(value) if value.isdigit() and int(value) > 0 else None
    return None


def launch(experiment: Experiment, *, aggregated: bool) -> AggregatedResult | None:
    """Runs all processes of an experiment, and aggregates what they measured.

    Raises:
        LemError: a process failed; what was finished is kept for --resume.
    """
    if experiment.state.status != "completed":
        with guarded(experiment) as running:
            if running.state.num_processes == 1:
                run_process(running, process_index=0)
            else:
                _run_children(running)
            experiment = running.moved(running.states.move(running.state, "completed"))
    return aggregate(experiment) if aggregated else None


def launch_rank(experiment: Experiment, ranks: Ranks, *, aggregated: bool) -> AggregatedResult | None:
    """Runs process 0 of an experiment whose other processes were started beside it, and aggregates.

    Raises:
        LemError: a process failed.
    """
    path = _rendezvous_path(experiment.results_dir)
    try:
        with guarded(experiment) as running:
            make_folder(path.parent)
            found = {"experiment_id": running.id, "attempt": running.state.attempt}
            write_atomically(path, json.dumps(found).encode())
            run_process(running, process_index=ranks.rank, wait_for_all=True)
            experiment = running.moved(running.states.move(running.state, "completed"))
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    return aggregate(experiment) if aggregated else None


def wait_for_experiment(results_dir: Path) -> str:
    """The id of the experiment that process 0 has made or taken up; for the other processes.

    Raises:
        LemError: it did not come.
    """
    path = _rendezvous_path(results_dir)
    until = time.monotonic() + RENDEZVOUS_S
    while time.monotonic() < until:
        try:
            return str(json.loads(path.read_bytes())["experiment_id"])
        except FileNotFoundError:
            time.sleep(0.05)
        except (OSError, ValueError, KeyError) as error:
            raise LemError(f"can't read {path}: {error}") from error
    raise LemError(f"process 0 has not begun an experiment within {RENDEZVOUS_S:g} s; see its messages")


def _rendezvous_path(results_dir: Path) -> Path:
    """Where process 0 says which experiment it is: known to all that one launcher started at one time."""
    import psutil

    parent = psutil.Process(os.getppid())
    named = [os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")]
    key = json.dumps([*named, parent.pid, parent.create_time()])
    return results_dir / "raw" / f".rendezvous_{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _run_children(experiment: Experiment) -> None:
    """Starts the processes, waits for them, and ends all when one fails or this one is interrupted."""
    count = experiment.state.num_processes
    children: list[subprocess.Popen[bytes]] = []
    try:
        children += [_start(experiment, index, count) for index in range(count)]
        while any(child.poll() is None for child in children):
            failed = [index for index, child in enumerate(children) if child.returncode]
            if failed:
                break
            time.sleep(0.05)
    finally:
        _stop(children)
    failed = [index for index, child in enumerate(children) if child.returncode]
    if failed:
        raise LemError(_why(experiment.states, experiment, failed))


def _start(experiment: Experiment, index: int, count: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "llenergymeasure", "experiment", "--process-of", experiment.id]
    command += ["--results-dir", os.path.abspath(experiment.results_dir)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment |= {"RANK": str(index), "LOCAL_RANK": str(index)}
    environment |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    # A session of its own: Ctrl-C comes to this process, which passes it on once.
    # Standard output is for the result: what libraries print there goes to standard error (2).
    return subprocess.Popen(command, env=environment, stdout=2, start_new_session=True)


def _stop(children: list[subprocess.Popen[bytes]]) -> None:
    running = [child for child in children if child.poll() is None]
    for child in running:
        child.send_signal(signal.SIGINT)
    until = time.monotonic() + STOP_S
    for child in running:
        try:
            child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _why(states: StateStore, experiment: Experiment, failed: list[int]) -> str:
    """The first error of its own: others failed because that one did."""
    records: list[tuple[int, Any]] = [(index, states.read_process(experiment.id, index)) for index in failed]
    first = next((each for each in records if each[1] is not None and each[1].ended == "failed"), records[0])
    index, record = first
    reason = record.error if record is not None and record.error else "it was killed"
    return f"process {index} failed: {reason}"
