"""Jobs on a real Slurm of one node, which the test starts and stops."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm
TOOL = Path(__file__).parent.parent.parent / "tools" / "slurm_one_node.py"
ENV = """\
[node]
executor = "slurm"
account = "kit"
partition = "batch"
nproc_per_node = 2
time = "00:05:00"
env_vars = { NOTE = "two words" }
"""


@pytest.fixture(scope="module")
def slurm(nemo_run_python: str) -> Iterator[dict[str, str]]:
    """The environment of a running Slurm."""
    place = Path(tempfile.mkdtemp(prefix="slurm-"))
    place.chmod(0o755)  # the database's user enters it
    started = subprocess.run([sys.executable, str(TOOL), "start", str(place)], capture_output=True, text=True)
    if started.returncode and ("missing" in started.stderr or "root" in started.stderr):
        pytest.skip(started.stderr.strip())
    assert started.returncode == 0, started.stderr
    try:
        yield dict([line.removeprefix("export ").split("=", 1) for line in started.stdout.splitlines()])
    finally:
        subprocess.run([sys.executable, str(TOOL), "stop", str(place)], check=True)
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def run(ranks: Any, slurm: dict[str, str], nemo_run_python: str) -> Any:
    """`ranks` in the folder, against that Slurm."""
    ranks.write("env.toml", ENV)
    own = slurm | {"NEMORUN_HOME": str(ranks.home / "runs"), "HF_TOKEN": "hf_ab"}
    return lambda *arguments: ranks.run(*arguments, program="ranks", python=nemo_run_python, **own)


def test_an_attached_job_streams_its_log_and_ends_with_its_code(run: Any, folder: Any) -> None:
    done = run("go", "--run", "node", f"out={folder.place}/made")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("sum of ranks 3") == 2
    assert "folder True note two words" in done.stdout
    assert f"token {sum(map(ord, 'hf_ab'))}" in done.stdout
    kept = [path for path in (folder.home / "runs").rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if b"hf_ab" in path.read_bytes()]
    (job,) = (folder.place / ".nemotron/jobs").iterdir()
    assert (folder.place / "made").read_text() == job.name


def test_a_failing_job_ends_with_its_own_code(run: Any) -> None:
    done = run("handled", "--run", "node", "--run.nproc_per_node", "1", "fail=5")
    assert done.returncode == 5, done.stderr[-3000:]
    ranks = run("go", "--run", "node", "fail=5")
    assert ranks.returncode == 1, ranks.stderr[-3000:]
    assert "sum of ranks 3" in ranks.stdout


def test_a_detached_job_is_left_and_completes(run: Any, folder: Any) -> None:
    done = run("go", "--batch", "node", f"out={folder.place}/made")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "nemo experiment logs" in done.stderr
    until = time.monotonic() + 120
    while not (folder.place / "made").exists() and time.monotonic() < until:
        time.sleep(0.5)
    (job,) = (folder.place / ".nemotron/jobs").iterdir()
    assert (folder.place / "made").read_text() == job.name
