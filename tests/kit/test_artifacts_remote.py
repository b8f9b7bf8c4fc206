"""Registries behind fsspec: memory, and S3 as moto's server speaks it."""

from __future__ import annotations

import concurrent.futures
import json
import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer

from nemotron.kit.artifacts import Artifact, ArtifactRegistry, ModelArtifact, render_tree, resolve_artifact, run_context
from nemotron.kit.errors import KitError


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="artifacts")
        yield "s3://artifacts"
    server.stop()


@pytest.fixture(params=["memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    return f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "sub" / "weights").write_bytes(b"abc" * 1000)
    return tmp_path / "data"


def test_publish_resolve_list_verify(root: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEMOTRON_ARTIFACTS", root)
    with run_context(command="train"):
        ModelArtifact(data, 1.5, 10).save("Model-x", aliases=["best"])
    with run_context(command="again"):
        found = resolve_artifact("art://Model-x:best")
        ModelArtifact(data, 1.2, 20).save("Model-x")
    assert isinstance(found, ModelArtifact)
    assert (found.path / "sub" / "weights").read_bytes() == b"abc" * 1000
    assert found.path.is_relative_to(data.parent / "cache")
    registry = ArtifactRegistry()
    assert [(each.reference, each.aliases) for each in registry.list()] == [
        ("Model-x:v1", ["best"]),
        ("Model-x:v2", ["latest"]),
    ]
    assert registry.verify("Model-x:v1") == []
    assert render_tree(registry.lineage("Model-x")).splitlines()[1].startswith("└─ Model-x:v1")
    files, base = fsspec.core.url_to_fs(root)
    assert json.loads(files.cat_file(f"{base}/Model-x/v1/metadata.json"))["version"] == 1  # it is really there


def test_a_changed_byte_is_found_and_not_fetched(root: str, data: Path) -> None:
    registry = ArtifactRegistry(root)
    Artifact(data).save("Data-x", registry=registry)
    files, base = fsspec.core.url_to_fs(root)
    files.pipe_file(f"{base}/Data-x/v1/sub/weights", b"abd" + b"abc" * 999)
    assert registry.verify("Data-x") == ["sub/weights: changed"]
    with pytest.raises(KitError, match="sub/weights was changed"):
        registry.resolve("Data-x")


def test_threads_publish_at_once(root: str, data: Path) -> None:
    def publish(_: int) -> int | None:
        artifact = Artifact(data)
        artifact.save("Data-x", registry=ArtifactRegistry(root))
        return artifact.version

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert sorted(filter(None, pool.map(publish, range(12)))) == list(range(1, 13))
    assert len(ArtifactRegistry(root).list()) == 12


def test_processes_publish_to_s3_at_once(s3: str, data: Path) -> None:
    root = f"{s3}/{uuid.uuid4().hex}"
    code = (
        "import sys; from nemotron.kit.artifacts import *\n"
        "for _ in range(5):\n"
        "    a = Artifact(sys.argv[1]); a.save('Data-x', registry=ArtifactRegistry(sys.argv[2])); print(a.version)"
    )
    running = []
    for index in range(4):
        folder = data.parent / f"p{index}"
        folder.mkdir()
        (folder / "x").write_text(str(index))
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", code, str(folder), root]
        running.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
    given = [int(line) for process in running for line in process.communicate(timeout=120)[0].split()]
    assert sorted(given) == list(range(1, 21))
    files, base = fsspec.core.url_to_fs(root)
    files.invalidate_cache()
    index = json.loads(files.cat_file(f"{base}/.art_index.json"))["artifacts"]["Data-x"]
    assert sorted(map(int, index)) == list(range(1, 21))  # the last writer saw them all


def test_a_claimed_version_without_files_is_not_seen(root: str, data: Path) -> None:
    """The state after a kill in the middle of an upload."""
    registry = ArtifactRegistry(root)
    Artifact(data).save("Data-x", registry=registry)
    files, base = fsspec.core.url_to_fs(root)
    files.pipe_file(f"{base}/Data-x/.versions/v2.claim", b'{"id": "dead", "at_unix_s": 0}')
    files.pipe_file(f"{base}/Data-x/v2/sub/weights", b"half")
    assert str(registry.find("Data-x")) == "Data-x:v1"
    assert [each.version for each in registry.list()] == [1]
    after = Artifact(data)
    after.save("Data-x", registry=registry)
    assert after.version == 3  # the number stays unused
    assert registry.clean() == ["Data-x/v2"]
    assert registry.verify("Data-x:v3") == []


def test_the_index_of_an_object_store_heals(root: str, data: Path) -> None:
    registry = ArtifactRegistry(root)
    Artifact(data).save("Data-x", registry=registry)
    files, base = fsspec.core.url_to_fs(root)
    files.pipe_file(f"{base}/.art_index.json", b"{")
    assert [each.reference for each in registry.list()] == ["Data-x:v1"]


def test_file_systems_without_exclusive_creation_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(KitError, match="can't create a file exclusively"):
        Artifact(data).save("Data-x", registry=ArtifactRegistry("dir::memory://x"))
    with pytest.raises(KitError, match="can't open the registry nosuch://x"):
        ArtifactRegistry("nosuch://x")
