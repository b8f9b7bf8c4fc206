"""Where results lie, that none is left half written, and that every later change of a file is found."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llenergymeasure.errors import LemError
from llenergymeasure.results import manifest
from llenergymeasure.results.schema import RawResult
from llenergymeasure.results.store import ResultStore

ID = "exp_20240115_123456"
Make = Callable[..., RawResult]


@pytest.fixture
def complete(store: ResultStore, make: Make) -> ResultStore:
    """An aggregated experiment of two cycles with a power trace and a configuration beside it."""
    for cycle in (0, 1):
        result = make(cycle=cycle, cycles=2, power_trace="power_0.jsonl")
        path = store.write_raw(result)
        path.with_name("power_0.jsonl").write_text('{"segment": 0, "t_s": 0.1, "watts": 50.0}\n')
    (store.raw_folder(ID) / "config.yaml").write_text("config_name: tiny\n")
    store.aggregate(ID)
    return store


def test_layout_and_marker(store: ResultStore, make: Make) -> None:
    path = store.write_raw(make(process=1, processes=2))
    assert path == store.root / "raw" / ID / "process_1.json"
    marker = json.loads((path.parent / ".completed_1").read_text())
    assert marker["process_index"] == 1
    assert marker["gpu_uuids"] == ["GPU-1"]
    assert marker["path"] == f"raw/{ID}/process_1.json"
    assert manifest.file_sha256(path).startswith(marker["sha256_prefix"])
    assert marker["completed_at"].startswith("2024-01-15T")
    assert store.read_raw(path).result == make(process=1, processes=2)


def test_pending_aggregated_and_damaged_experiments_are_listed(complete: ResultStore, make: Make) -> None:
    complete.write_raw(make(experiment_id="exp_b"))
    complete.write_raw(make(experiment_id="exp_c")).write_text("{")
    assert [(each.id, each.status) for each in complete.list()] == [
        (ID, "aggregated"),
        ("exp_b", "pending"),
        ("exp_c", "unreadable"),
    ]


def test_a_missing_id_names_the_nearest(complete: ResultStore) -> None:
    with pytest.raises(LemError, match=rf"no experiment exp_20240115_123457 .*near it: {ID}"):
        complete.load("exp_20240115_123457")
    for outside in ("../raw", "a/b", "", ".hidden"):
        with pytest.raises(LemError, match="an experiment id is"):
            complete.load(outside)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged, it is not JSON"),
        ("[]", "is damaged at the whole"),
        ('{"schema_version": 99}', "has schema version 99, this lem reads up to 1; update lem"),
        ('{"experiment_id": "x"}', "is damaged at config_name: Field required"),
    ],
)
def test_a_damaged_file_is_one_line(complete: ResultStore, content: str, message: str) -> None:
    complete.aggregated_path(ID).write_text(content)
    with pytest.raises(LemError, match=message) as caught:
        complete.load(ID)
    assert "\n" not in str(caught.value)


def test_a_complete_experiment_verifies(complete: ResultStore) -> None:
    assert complete.verify(ID) == []
    assert len({each.path for each in manifest.read(complete.raw_folder(ID))}) == 9


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_one_byte_changed_anywhere_is_found(complete: ResultStore, data: st.DataObject) -> None:
    files = sorted(path for path in complete.root.rglob("*") if path.is_file() and path.stat().st_size)
    path = data.draw(st.sampled_from(files))
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != content[place]))
    path.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
    try:
        assert complete.verify(ID), f"{path.name}, byte {place}"
    finally:
        path.write_bytes(content)


def test_one_byte_changed_in_the_manifest_is_found(complete: ResultStore) -> None:
    chain = complete.raw_folder(ID) / manifest.MANIFEST
    content = chain.read_bytes()
    for place in range(0, len(content), 13):
        chain.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert complete.verify(ID), f"byte {place}: {content[max(0, place - 20) : place + 20]!r}"
    chain.write_bytes(content)
    assert complete.verify(ID) == []


def test_removed_added_and_cut_files_are_found(complete: ResultStore) -> None:
    folder = complete.raw_folder(ID)
    for path in sorted(path for path in complete.root.rglob("*") if path.is_file() and path.name != "manifest.jsonl"):
        if path.stat().st_size == 0:  # the lock of the manifest
            continue
        content = path.read_bytes()
        path.unlink()
        assert [each.what.split(":")[0] for each in complete.verify(ID)] == ["removed"], path
        path.write_bytes(content)
    (folder / "cycle_0" / "process_7.json").write_text("{}")
    assert [each.what for each in complete.verify(ID)] == ["added: the manifest does not have it"]
    (folder / "cycle_0" / "process_7.json").unlink()
    chain = folder / manifest.MANIFEST
    lines = chain.read_text().splitlines(keepends=True)
    chain.write_text("".join(lines[:-1]))  # the last entry is that of an aggregate, which is then one too many
    assert [each.what.split(":")[0] for each in complete.verify(ID)] == ["added"]
    chain.write_text("".join([lines[0], *lines[2:]]))
    assert "does not follow" in complete.verify(ID)[0].what
    chain.unlink()
    assert "missing" in complete.verify(ID)[0].what


def test_aggregating_again_does_not_take_an_edited_file_for_a_new_one(complete: ResultStore) -> None:
    trace = complete.raw_folder(ID) / "cycle_0" / "power_0.jsonl"
    trace.write_text(trace.read_text().replace("50", "20"))
    complete.aggregate(ID, force=True)
    assert [each.path for each in complete.verify(ID)] == [f"raw/{ID}/cycle_0/power_0.jsonl"]


def test_processes_that_write_at_once_make_one_chain(store: ResultStore, make: Make) -> None:
    threads = [
        threading.Thread(target=store.write_raw, args=(make(process=p, processes=8, requests=8),)) for p in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert store.verify(ID) == []
    assert len(manifest.read(store.raw_folder(ID))) == 16


@pytest.fixture
def full_disk() -> Iterator[Callable[[], None]]:
    """Writes beyond 4 KiB of a file fail from when it is called, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    store: ResultStore, make: Make, full_disk: Callable[[], None]
) -> None:
    store.write_raw(make(process=0, processes=2, requests=40))
    before = {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    full_disk()
    with pytest.raises(LemError, match=r"can't write .*process_1.json"):
        store.write_raw(make(process=1, processes=2, requests=40))
    with pytest.raises(LemError, match=r"can't write .*aggregated"):
        store.aggregate(ID, strict=False)
    after = {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    assert after == before


def test_a_tmpfs_that_is_full(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    command = f"{mount} -t tmpfs -o size=64k none {folder} 2>/dev/null"
    if os.geteuid() != 0 or mount is None or os.system(command) != 0:
        pytest.skip("needs to mount a tmpfs")
    try:
        store = ResultStore(folder / "results")
        store.write_raw(make())
        (folder / "filler").write_bytes(b"x" * (40 << 10))
        with pytest.raises(LemError, match="no space left on device"):
            store.write_raw(make(process=1, processes=2, requests=400))
        assert [path.name for path in store.raw_paths(ID)] == ["process_0.json"]
        assert store.verify(ID) == []
    finally:
        os.system(f"umount {folder}")


def test_a_folder_without_write_permission(make: Make) -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o555)
        user = os.geteuid()
        result = make()
        try:
            if user == 0:
                try:
                    os.seteuid(65534)
                except OSError:
                    pytest.skip("root here, and no other user to be: permissions do not bind it")
            with pytest.raises(LemError, match="permission denied; give another with -o"):
                ResultStore(Path(name) / "results").write_raw(result)
            with pytest.raises(LemError, match=r"permission denied; give another with -o"):
                ResultStore(name).write_raw(result)
        finally:
            os.seteuid(user)
            os.chmod(name, 0o755)
        assert os.listdir(name) == []


def test_a_file_in_the_place_of_the_folder(make: Make, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(LemError, match="a file is in its place; give another with -o"):
        ResultStore(tmp_path / "results").write_raw(make())
    assert ResultStore(tmp_path / "results").ids() == []
