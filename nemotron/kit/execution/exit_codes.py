"""The exit code of a job that NeMo-Run has waited for. Its own `run()` ends well for failed jobs, too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nemotron.kit.execution.run_config import RunConfig

__all__ = ["exit_code", "parse_sacct"]


def exit_code(experiment: Any, config: RunConfig) -> int:
    """0 where all tasks succeeded, else the exit code that the executor tells, else 1."""
    states = [getattr(job.state, "name", str(job.state)) for job in experiment.jobs]
    if states and all(state == "SUCCEEDED" for state in states):
        return 0
    told = None
    if config.executor == "slurm":
        told = _of_slurm(experiment)
    elif config.executor == "local":
        told = _of_local(experiment)
    elif config.executor == "docker":
        told = _of_docker(experiment)
    return told or 1


def _application(handle: str) -> str:
    """The scheduler's id in a handle such as `slurm_tunnel://nemo_run/17/…`."""
    return handle.split("://", 1)[1].split("/")[1]


def _of_slurm(experiment: Any) -> int | None:
    for job in experiment.jobs:
        number = _application(job.handle)
        said = job.executor.tunnel.run(f"sacct -X -n -P -j {number} -o ExitCode", hide=True, warn=True)
        found = parse_sacct(said.stdout)
        if found:
            return found
    return None


def parse_sacct(text: str) -> int | None:
    """The first code that is not 0 of `code:signal` lines; a signal counts as 128 and its number."""
    for line in text.split():
        code, _, signal = line.strip("|").partition(":")
        if code.isdigit() and int(code):
            return int(code)
        if signal.isdigit() and int(signal):
            return 128 + int(signal)
    return None


def _of_local(experiment: Any) -> int | None:
    scheduler = experiment._runner._scheduler("local_persistent")
    for application in scheduler._apps.values():
        for replicas in application.role_replicas.values():
            for replica in replicas:
                code = replica.proc.returncode
                if code:
                    return int(code) if code > 0 else 128 - int(code)
    return None


def _of_docker(experiment: Any) -> int | None:
    for job in experiment.jobs:
        for file in Path(job.executor.job_dir).glob("status_*.out"):
            try:
                code = int(json.loads(file.read_text())["exit_code"])
            except (ValueError, KeyError, OSError):
                continue
            if code:
                return code
    return None
