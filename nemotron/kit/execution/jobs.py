"""Job folders: `.nemotron/jobs/<time>-<recipe>/` with job.yaml (provenance) and train.yaml (what the script reads)."""

from __future__ import annotations

import dataclasses
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvllm_programs.config_text import to_yaml
from nemotron.kit.artifacts.lineage import user_name
from nemotron.kit.config import plain
from nemotron.kit.errors import KitError
from nemotron.kit.secrets import masked

if TYPE_CHECKING:
    from nemotron.kit.cli.compose import Composed
    from nemotron.kit.cli.recipe import CommandSpec

__all__ = ["Job", "git_state", "new_job", "provenance", "start_job"]


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A job's folder; its name is the job's id."""

    folder: Path

    @property
    def name(self) -> str:
        """`20260131-140502-nano3-pretrain`."""
        return self.folder.name

    def write(self, name: str, data: Any) -> Path:
        """Writes a YAML file of the folder whole or not at all; only its owner can read it: it may hold secrets.

        Raises:
            KitError: it can't be written; names the file and why.
        """
        target = self.folder / name
        temporary = self.folder / f".{name}.part"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(to_yaml(data))
            os.replace(temporary, target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise KitError(f"{target}: {error.strerror}") from error
        return target


def new_job(path: tuple[str, ...], root: Path | None = None) -> Job:
    """Makes an empty job folder below `.nemotron/jobs` of the working folder.

    Raises:
        KitError: the folder can't be written.
    """
    jobs = (root or Path.cwd()) / ".nemotron" / "jobs"
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{'-'.join(path)}"
    try:
        jobs.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            folder = jobs / (stem if number == 1 else f"{stem}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return Job(folder)
    except OSError as error:
        raise KitError(f"{jobs}: {error.strerror}; run the command in a folder that you can write to") from error
    raise KitError(f"{jobs} has a thousand jobs of this second; remove some")


def start_job(spec: CommandSpec, composed: Composed) -> Job:
    """The folder of a job that runs in this process."""
    job = new_job(spec.path)
    job.write("train.yaml", composed.data)
    job.write("job.yaml", provenance(spec, composed) | {"runs": "in this process"})
    return job


def provenance(spec: CommandSpec, composed: Composed) -> dict[str, Any]:
    """What made this job: command, configuration, artifacts, code, machine."""
    return {
        "command": " ".join(spec.path),
        "argv": masked(list(sys.argv)),
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "folder": str(Path.cwd()),
        "config_file": str(composed.file.path) if composed.file else None,
        "config": masked(plain(composed.config) if composed.config is not None else composed.resolved),
        "artifacts": dict(composed.references),
        "code": git_state(Path.cwd()),
        "user": user_name(),
        "host": os.uname().nodename,
        "python": platform.python_version(),
        "interpreter": sys.executable,
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and whether files differ from it; None outside of git."""
    try:
        command = ["git", "-C", str(folder), "status", "--porcelain", "--branch", "--untracked-files=normal"]
        status = subprocess.run(command, capture_output=True, text=True, timeout=30)
        head = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if status.returncode:
        return None
    changed = [line for line in status.stdout.splitlines() if not line.startswith("##")]
    return {"commit": head.stdout.strip() if head.returncode == 0 else None, "uncommitted_files": len(changed)}
