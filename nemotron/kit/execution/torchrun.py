"""Several processes on this machine by torchrun, without NeMo-Run."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from nemotron.kit.execution.jobs import new_job, provenance
from nemotron.kit.execution.target import find_target

if TYPE_CHECKING:
    from nemotron.kit.cli.compose import Composed
    from nemotron.kit.cli.recipe import CommandSpec

__all__ = ["run_by_torchrun"]


def run_by_torchrun(spec: CommandSpec, composed: Composed, processes: int) -> int:
    """Runs the command's script in `processes` processes; returns torchrun's exit code.

    Raises:
        KitError: the command has nothing that a process can run.
    """
    target = find_target(spec)
    job = new_job(spec.path)
    config = job.write("train.yaml", composed.data)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launcher, *target.command(), "--config", str(config)]
    job.write("job.yaml", provenance(spec, composed) | {"runs": command})
    roots = [str(target.root)] if target.root else []
    environment = dict(
        os.environ,
        NEMOTRON_JOB=job.name,
        PYTHONPATH=os.pathsep.join([*roots, *(path for path in sys.path if path)]),
    )
    environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    try:
        return subprocess.run(command, env=environment).returncode
    except KeyboardInterrupt:
        return 130
