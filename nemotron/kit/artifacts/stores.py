"""Where a registry's files lie: a folder, or any file system of fsspec. Neither ever shows half a version.

A folder: the files are copied to `.staging/<id>/`, which is renamed to `<name>/vN`; the rename fails where vN is there
already, and the next number is tried. A kill leaves a staging folder, whose lock the system frees; the next publish
removes it. Numbers have no gaps.

An object store has neither rename nor locks: a number is claimed by creating `<name>/.versions/vN.claim` exclusively (a
conditional put on S3), the files and then metadata.json are uploaded to `<name>/vN/`, and `.versions/vN.done`, which is
written last, makes the version exist. A kill leaves a claimed number, which stays unused, and files, which `clean`
removes by age. The index is written without a lock; each writer looks again afterwards, and readers compare it with
the `.done` marks, so that a late or lost write of it loses no version. A store must read what was just written, as S3.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from medvllm_programs.files import file_lock
from nemotron.kit.artifacts.artifact import METADATA_FILE
from nemotron.kit.artifacts.checksums import FileSum, copy_and_sum, sum_file, sum_stream
from nemotron.kit.artifacts.files import write_bytes_atomically
from nemotron.kit.errors import KitError

__all__ = ["FsspecStore", "LocalStore", "MakeMetadata", "Store", "open_store"]

# Given the version's number and its files' sums, the bytes of its metadata.json.
MakeMetadata = Callable[[int, dict[str, FileSum]], bytes]
_STAGING = ".staging"
_VERSIONS = ".versions"


class Store(Protocol):
    """What a registry needs of the place its files are in. Paths are relative to the root, with `/`."""

    root: str
    local: bool

    def folders(self, path: str) -> list[str]:
        """Names of the folders in `path`; none where `path` is missing."""

    def names(self, path: str) -> list[str]:
        """Names of the files in `path`; none where `path` is missing."""

    def versions(self, name: str) -> list[int]:
        """The numbers of the whole versions of `name`, rising."""

    def read(self, path: str) -> bytes:
        """The bytes of a file; FileNotFoundError where there is none."""

    def write(self, path: str, data: bytes) -> None:
        """Writes a file so that a reader sees the old bytes or the new ones."""

    def lock(self) -> contextlib.AbstractContextManager[object]:
        """Holds the registry's lock where the store has one."""

    def publish(self, name: str, files: Iterable[tuple[str, Path]], make_metadata: MakeMetadata) -> int:
        """Makes the next version of `name` from the files, and returns its number."""

    def fetch(self, path: str, target: Path) -> None:
        """Copies one file to this machine."""

    def sum(self, path: str) -> FileSum:
        """Size and checksum of a file; FileNotFoundError where there is none."""

    def clean(self, older_than_s: float) -> list[str]:
        """Removes what killed publishes left, and returns those paths."""


def open_store(root: str | Path) -> Store:
    """The store at a path or at a URL of fsspec (`s3://bucket/folder`, `memory://name`); `file://` is a path.

    Raises:
        KitError: fsspec, or what it needs for this URL, is not installed.
    """
    text = os.fspath(root)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    return FsspecStore(text) if "://" in text else LocalStore(Path(text).expanduser().absolute())


class LocalStore:
    """A folder on a disk of this machine, or a shared one whose locks and renames work between its machines."""

    local = True

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._root = root

    def folders(self, path: str) -> list[str]:
        """See `Store`."""
        return self._entries(path, folders=True)

    def names(self, path: str) -> list[str]:
        """See `Store`."""
        return self._entries(path, folders=False)

    def _entries(self, path: str, *, folders: bool) -> list[str]:
        try:
            with os.scandir(self._root / path) as entries:
                return [entry.name for entry in entries if entry.is_dir() == folders]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def versions(self, name: str) -> list[int]:
        """See `Store`."""
        return sorted(number for each in self.folders(name) if (number := _number(each)) is not None)

    def read(self, path: str) -> bytes:
        """See `Store`."""
        return (self._root / path).read_bytes()

    def sum(self, path: str) -> FileSum:
        """See `Store`."""
        return sum_file(self._root / path)

    def write(self, path: str, data: bytes) -> None:
        """See `Store`."""
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(target, data)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """See `Store`."""
        self._root.mkdir(parents=True, exist_ok=True)
        with file_lock(self._root / ".lock"):
            yield

    def publish(self, name: str, files: Iterable[tuple[str, Path]], make_metadata: MakeMetadata) -> int:
        """See `Store`."""
        stage = self._staging() / uuid.uuid4().hex
        with contextlib.ExitStack() as held:
            with self.lock():  # so that nobody cleans between the making of the lock file and its locking
                self._clean_staging(0)
                held.enter_context(file_lock(stage.with_suffix(".lock")))
            try:
                stage.mkdir()
                sums = {relative: _copy(source, stage / relative) for relative, source in files}
                return self._rename_to_next(name, stage, lambda number: make_metadata(number, sums))
            finally:
                with self.lock():
                    shutil.rmtree(stage, ignore_errors=True)
                    stage.with_suffix(".lock").unlink()

    def _rename_to_next(self, name: str, stage: Path, metadata: Callable[[int], bytes]) -> int:
        home = self._root / name
        home.mkdir(parents=True, exist_ok=True)
        while True:
            number = max(self.versions(name), default=0) + 1
            write_bytes_atomically(stage / METADATA_FILE, metadata(number))
            try:
                os.rename(stage, home / f"v{number}")  # fails where the folder is there: it holds a metadata.json
            except OSError:
                if not (home / f"v{number}").exists():
                    raise
                continue
            _sync_folder(home)
            return number

    def _staging(self) -> Path:
        staging = self._root / _STAGING
        staging.mkdir(parents=True, exist_ok=True)
        return staging

    def fetch(self, path: str, target: Path) -> None:
        """See `Store`."""
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._root / path, target)

    def clean(self, older_than_s: float) -> list[str]:
        """See `Store`. A staging folder of a living process is locked and stays, whatever its age."""
        with self.lock():
            return self._clean_staging(older_than_s)

    def _clean_staging(self, older_than_s: float) -> list[str]:
        removed = []
        for entry in sorted(self._staging().iterdir()):
            if entry.suffix != ".lock" or time.time() - entry.stat().st_mtime < older_than_s:
                continue
            with file_lock(entry, wait=False) as held:
                stage = entry.with_suffix("")
                if held and stage.is_dir():
                    shutil.rmtree(stage)
                    removed.append(f"{_STAGING}/{stage.name}")
                if held:
                    entry.unlink()
        return removed


def _copy(source: Path, target: Path) -> FileSum:
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target, "wb") as file:
        total = copy_and_sum(source, file)
        file.flush()
        os.fsync(file.fileno())
    shutil.copymode(source, target)
    return total


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _number(version: str) -> int | None:
    return int(version[1:]) if version[:1] == "v" and version[1:].isdigit() else None


class FsspecStore:
    """Any file system of fsspec that can create a file exclusively: `memory://`, `s3://`, and those that raise
    FileExistsError, or a failed precondition, on a second creation."""

    local = False
    _locks: dict[str, threading.RLock] = {}  # noqa: RUF012  # one lock a root, for the threads of this process

    def __init__(self, root: str) -> None:
        try:
            import fsspec

            self._fs, self._base = fsspec.core.url_to_fs(root.rstrip("/"), use_listings_cache=False)
        except ImportError as error:
            raise KitError(
                f"the registry {root} needs fsspec and its file system ({error}); pip install them"
            ) from error
        except ValueError as error:
            raise KitError(f"can't open the registry {root}: {error}") from error
        self.root = root.rstrip("/")
        self._lock = self._locks.setdefault(self.root, threading.RLock())

    def _at(self, path: str) -> str:
        return f"{self._base.rstrip('/')}/{path}".rstrip("/")

    def _entries(self, path: str, kind: str) -> list[str]:
        try:
            entries = self._fs.ls(self._at(path), detail=True, refresh=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except TypeError:  # a file system without a cache of listings takes no refresh
            entries = self._fs.ls(self._at(path), detail=True)
        names = (entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == kind)
        return [name for name in names if name]

    def folders(self, path: str) -> list[str]:
        """See `Store`."""
        return self._entries(path, "directory")

    def names(self, path: str) -> list[str]:
        """See `Store`."""
        return self._entries(path, "file")

    def versions(self, name: str) -> list[int]:
        """See `Store`."""
        return self._marked(name, ".done")

    def _marked(self, name: str, suffix: str) -> list[int]:
        marks = (each.removesuffix(suffix) for each in self.names(f"{name}/{_VERSIONS}") if each.endswith(suffix))
        return sorted(number for each in marks if (number := _number(each)) is not None)

    def read(self, path: str) -> bytes:
        """See `Store`."""
        return bytes(self._fs.cat_file(self._at(path)))

    def sum(self, path: str) -> FileSum:
        """See `Store`."""
        with self._fs.open(self._at(path), "rb") as file:
            return sum_stream(file)

    def write(self, path: str, data: bytes) -> None:
        """See `Store`: one put of an object is atomic."""
        self._fs.pipe_file(self._at(path), data)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """See `Store`: between the threads of this process; between processes nothing relies on it."""
        with self._lock:
            yield

    def publish(self, name: str, files: Iterable[tuple[str, Path]], make_metadata: MakeMetadata) -> int:
        """See `Store`."""
        number = self._claim_next(name)
        home, sums = f"{name}/v{number}", {}
        for relative, source in files:
            with self._fs.open(self._at(f"{home}/{relative}"), "wb") as file:
                sums[relative] = copy_and_sum(source, file)
        self.write(f"{home}/{METADATA_FILE}", make_metadata(number, sums))
        self.write(f"{name}/{_VERSIONS}/v{number}.done", b"{}\n")
        return number

    def _claim_next(self, name: str) -> int:
        claim = json.dumps({"id": uuid.uuid4().hex, "at_unix_s": time.time()}).encode()
        number = max(self._marked(name, ".claim"), default=0) + 1
        while not self._create(f"{name}/{_VERSIONS}/v{number}.claim", claim):
            number += 1
        return number

    def _create(self, path: str, data: bytes) -> bool:
        """Creates a file that must not be there; False where another did. What was written is read back."""
        self._require_exclusive_creation()
        with self._lock:
            try:
                self._fs.pipe_file(self._at(path), data, mode="create")
            except FileExistsError:
                return False
            except (OSError, ValueError) as error:
                if not _says_exists(error):
                    raise KitError(f"the registry {self.root} can't create a file exclusively ({error})") from error
                return False
        return self.read(path) == data

    def _require_exclusive_creation(self) -> None:
        """KitError on a file system where `mode="create"` only looks before it writes, as fsspec's base class does."""
        from fsspec.asyn import AsyncFileSystem
        from fsspec.spec import AbstractFileSystem

        if isinstance(self._fs, AsyncFileSystem):
            exclusive = "mode" in inspect.signature(self._fs._pipe_file).parameters
        else:
            exclusive = type(self._fs).pipe_file is not AbstractFileSystem.pipe_file
        if not exclusive:
            raise KitError(
                f"the registry {self.root} can't be published to: its file system can't create a file exclusively, so "
                f"two publishes could take one version; use a folder, s3://, gs:// or memory://"
            )

    def fetch(self, path: str, target: Path) -> None:
        """See `Store`."""
        target.parent.mkdir(parents=True, exist_ok=True)
        self._fs.get_file(self._at(path), str(target))

    def clean(self, older_than_s: float) -> list[str]:
        """See `Store`. Only its age tells a killed publish from a slow one: choose longer than any upload takes."""
        removed = []
        for name in self.folders(""):
            for number in set(self._marked(name, ".claim")) - set(self.versions(name)):
                claim: dict[str, Any] = json.loads(self.read(f"{name}/{_VERSIONS}/v{number}.claim"))
                left = self._fs.find(self._at(f"{name}/v{number}"))
                if left and time.time() - claim["at_unix_s"] >= older_than_s:
                    self._fs.rm(left)
                    removed.append(f"{name}/v{number}")
        return removed


def _says_exists(error: BaseException) -> bool:
    """Whether a store's error means that a conditional creation found the file there."""
    text = f"{error} {error.__cause__ or ''}".lower()
    return "precondition" in text or "conditionalrequestconflict" in text or "412" in text or "already exists" in text
