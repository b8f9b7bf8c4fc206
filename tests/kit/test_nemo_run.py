"""Jobs through the real NeMo-Run on this machine, and its executors made from profiles."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def test_a_local_job_streams_its_log_and_returns_its_code(ranks: Any, nemo_run_python: str) -> None:
    ranks.write("env.toml", '[two]\nexecutor = "local"\nnproc_per_node = 2\nenv_vars = { NOTE = "two words" }\n')
    own = {"NEMORUN_HOME": str(ranks.home / "runs"), "HF_TOKEN": "hf_ab"}
    done = ranks.run("go", "--run", "two", "out=${oc.env:PWD}/made", program="ranks", python=nemo_run_python, **own)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(re.findall(r"sum of ranks 3", done.stdout)) == 2
    assert "folder True note two words" in done.stdout
    assert f"token {sum(map(ord, 'hf_ab'))}" in done.stdout
    (job,) = (ranks.place / ".nemotron/jobs").iterdir()
    assert (job / "code" / "made").read_text() == job.name
    assert not (ranks.place / "made").exists()
    failed = ranks.run(
        "handled", "--run", "two", "--run.nproc_per_node", "1", "fail=7", program="ranks", python=nemo_run_python, **own
    )
    assert failed.returncode == 7, failed.stderr[-3000:]


def test_executors_are_made_from_profiles(folder: Any, nemo_run_python: str) -> None:
    folder.write(
        "env.toml",
        """\
        [cluster]
        executor = "slurm"
        account = "a"
        nodes = 2
        gpus_per_node = 8
        [box]
        executor = "docker"
        container_image = "i"
        mounts = ["/a:/b"]
        [lepton]
        executor = "lepton"
        container_image = "i"
        nemo_run_dir = "/j"
        """,
    )
    folder.write(
        "make.py",
        """\
        from nemotron.kit import build_executor, load_run_profile
        for name in ("cluster", "box", "lepton"):
            made = build_executor(load_run_profile(name))
            print(type(made).__name__, made.nnodes(), made.nproc_per_node())
        """,
    )
    done = folder.run(program="make.py", python=nemo_run_python)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-3:] == ["SlurmExecutor 2 8", "DockerExecutor 1 1", "LeptonExecutor 1 1"]
