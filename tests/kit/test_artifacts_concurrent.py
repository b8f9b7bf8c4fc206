"""Publishing by many processes at once, being killed at it, and ranks that agree."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemotron.kit.artifacts import Artifact, ArtifactRegistry

PUBLISH = """
import sys
from nemotron.kit.artifacts import Artifact, ArtifactRegistry
folder, count = sys.argv[1], int(sys.argv[2])
for _ in range(count):
    artifact = Artifact(folder)
    artifact.save("Data-x", registry=ArtifactRegistry(sys.argv[3]))
    print(artifact.version, flush=True)
"""
RESOLVE = """
import os, sys, time
from nemotron.kit.artifacts import *
from nemotron.kit.errors import KitError
try:
    first, second = resolve_artifact(sys.argv[1]), resolve_artifact(sys.argv[1])
    text = f"{first.reference} {second.reference}"
except KitError as error:
    text = f"error {error}"
import torch.distributed as dist
dist.init_process_group("gloo")  # on the same store, as training does
dist.barrier()
with open(f"{sys.argv[2]}/rank{os.environ['RANK']}", "w") as file:  # gloo writes on both ranks' stdout
    file.write(text)
dist.destroy_process_group()
"""


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"} | more


def publishers(root: str, tmp_path: Path, *, processes: int, each: int, **more: str) -> list[int]:
    """The versions that the processes were given."""
    running = []
    for index in range(processes):
        folder = tmp_path / f"from{index}"
        folder.mkdir()
        (folder / "content").write_text(f"{index}" * 1000)
        command = [sys.executable, "-c", PUBLISH, str(folder), str(each), root]
        running.append(subprocess.Popen(command, env=environment(**more), stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0] * processes
    return [int(line) for output in outputs for line in output.split()]


def test_two_hundred_publishes_from_eight_processes(tmp_path: Path) -> None:
    root = tmp_path / "registry"
    given = publishers(str(root), tmp_path, processes=8, each=25)
    assert sorted(given) == list(range(1, 201))
    registry = ArtifactRegistry(root)
    index = json.loads((root / ".art_index.json").read_text())["artifacts"]["Data-x"]
    assert sorted(map(int, index)) == list(range(1, 201))  # as the last publish left it
    assert len(registry.list()) == 200
    assert all(registry.verify(f"Data-x:v{version}") == [] for version in (1, 100, 200))
    assert list((root / ".staging").iterdir()) == []


def test_killed_publishes_leave_a_readable_registry(tmp_path: Path) -> None:
    root, folder = tmp_path / "registry", tmp_path / "big"
    folder.mkdir()
    for index in range(8):
        (folder / f"part{index}").write_bytes(random.Random(index).randbytes(400_000))
    chance = random.Random(7)
    killed_inside = 0
    for _ in range(8):
        command = [sys.executable, "-c", PUBLISH, str(folder), "1000", str(root)]
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()  # it is at work
        time.sleep(chance.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed_inside += bool(list((root / ".staging").glob("*.lock")))
        registry = ArtifactRegistry(root)
        versions = [each.version for each in registry.list()]
        assert versions == list(range(1, len(versions) + 1))
        assert registry.verify("Data-x") == []
    assert killed_inside > 0  # at least one kill came inside a publish, else this test says nothing
    saved = Artifact(folder)
    saved.save("Data-x", registry=registry)
    assert saved.version == len(versions) + 1
    assert list((root / ".staging").iterdir()) == []  # what the killed ones left is gone


def test_readers_never_see_half_a_version(tmp_path: Path) -> None:
    root, folder = tmp_path / "registry", tmp_path / "big"
    folder.mkdir()
    for index in range(40):
        (folder / f"part{index}").write_bytes(random.Random(index).randbytes(50_000))
    command = [sys.executable, "-c", PUBLISH, str(folder), "6", str(root)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
    registry, seen = ArtifactRegistry(root), 0
    while process.poll() is None:
        for version in registry.versions("Data-x")[seen:]:
            assert registry.verify(f"Data-x:v{version}") == []  # as soon as it can be seen
            seen = version
    assert process.returncode == 0
    assert seen > 0


def test_a_version_that_is_not_in_the_index_yet_is_found(tmp_path: Path) -> None:
    """The state after a kill between the rename and the index."""
    registry = ArtifactRegistry(tmp_path / "registry")
    (tmp_path / "a").mkdir()
    Artifact(tmp_path / "a").save("Data-x", registry=registry)
    index = tmp_path / "registry" / ".art_index.json"
    before = index.read_bytes()
    Artifact(tmp_path / "a").save("Data-x", registry=registry)
    index.write_bytes(before)
    assert str(registry.find("Data-x")) == "Data-x:v2"
    assert [each.version for each in registry.list()] == [1, 2]


@pytest.fixture
def two_versions(tmp_path: Path) -> Path:
    root = tmp_path / "registry"
    (tmp_path / "a").mkdir()
    for _ in range(2):
        Artifact(tmp_path / "a").save("Data-x", registry=ArtifactRegistry(root))
    return root


def torchrun(script: str, root: Path, tmp_path: Path, reference: str) -> list[str]:
    file = tmp_path / "script.py"
    file.write_text(script)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(file),
        reference,
        str(tmp_path),
    ]
    env = environment(NEMOTRON_ARTIFACTS=str(root))
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [(tmp_path / f"rank{rank}").read_text() for rank in range(2)]


def test_ranks_agree_on_what_rank_0_finds(two_versions: Path, tmp_path: Path) -> None:
    # Rank 1 sees another registry by its environment: only rank 0's answer can make it say v2.
    script = RESOLVE.replace(
        "try:\n",
        "if os.environ['RANK'] == '0':\n    time.sleep(1)\n    Artifact('a').save('Data-x')\ntry:\n",
        1,
    )
    assert torchrun(script, two_versions, tmp_path, "Data-x") == [
        "Data-x:v3 Data-x:v3",
        "Data-x:v3 Data-x:v3",
    ]


def test_ranks_fail_with_rank_0(two_versions: Path, tmp_path: Path) -> None:
    lines = torchrun(RESOLVE, two_versions, tmp_path, "Nothing")
    assert all("error no artifact 'Nothing'" in line for line in lines)


def test_a_rank_does_not_wait_for_ever(two_versions: Path) -> None:
    """Rank 1 alone: nobody serves the store."""
    env = environment(
        NEMOTRON_ARTIFACTS=str(two_versions),
        RANK="1",
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="1",
        NEMOTRON_RESOLVE_TIMEOUT_S="1",
    )
    code = "from nemotron.kit.artifacts import *; resolve_artifact('Data-x')"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert "KitError: rank 1 can't reach the job's store at 127.0.0.1:1 within 1 s" in done.stderr
