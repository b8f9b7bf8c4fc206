"""The registry: versions of named artifacts under one root.

```
<root>/<name>/v1/metadata.json        what it is, who made it from what, and the checksums of all files
<root>/<name>/v1/…                    the files, unless the version points at a folder elsewhere
<root>/<name>/.aliases/best.json      {"version": 3}; `latest` is not stored: it is the highest version
<root>/.art_index.json                a summary of all versions, derived from the above and rebuilt whenever it differs
```
The folders are the truth and the index only saves reading each metadata.json, so a kill at any moment leaves a
registry that can be read. How a version is made without half of it being seen is in `stores.py`.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import difflib
import functools
import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from medvllm_programs.files import file_lock, json_bytes
from nemotron.kit.artifacts import lineage
from nemotron.kit.artifacts.artifact import METADATA_FILE, Artifact
from nemotron.kit.artifacts.checksums import FileSum, list_files, seal, seal_is_whole, sum_file
from nemotron.kit.artifacts.files import parse_json
from nemotron.kit.artifacts.reference import LATEST, Reference, check_alias, parse_reference
from nemotron.kit.artifacts.stores import Store, open_store
from nemotron.kit.errors import KitError

__all__ = ["INDEX_FILE", "ROOT_VARIABLE", "ArtifactRegistry", "ArtifactSummary", "default_root"]

INDEX_FILE = ".art_index.json"
ROOT_VARIABLE = "NEMOTRON_ARTIFACTS"
_ALIASES = ".aliases"
_FORMAT = 1
P = ParamSpec("P")
R = TypeVar("R")


def default_root() -> str:
    """$NEMOTRON_ARTIFACTS (a folder or a URL of fsspec), else the nearest `.nemotron/artifacts` in this folder or above
    it, else `.nemotron/artifacts` here."""
    given = os.environ.get(ROOT_VARIABLE)
    if given:
        return given
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".nemotron" / "artifacts").is_dir():
            return str(folder / ".nemotron" / "artifacts")
    return str(here / ".nemotron" / "artifacts")


@dataclass(frozen=True, slots=True)
class ArtifactSummary:
    """One version in a list. `path` is where its files are: in the registry, or where they were left."""

    name: str
    version: int
    type: str
    created_at: str
    size_bytes: int | None
    path: str
    aliases: list[str]
    metrics: dict[str, float]

    @property
    def reference(self) -> str:
        """`Name:v3`."""
        return f"{self.name}:v{self.version}"


def _in_one_line(
    method: Callable[Concatenate[ArtifactRegistry, P], R],
) -> Callable[Concatenate[ArtifactRegistry, P], R]:
    """The method, with what keeps the root from being read or written (no space, no right, no login) as a KitError."""

    @functools.wraps(method)
    def call(registry: ArtifactRegistry, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(registry, *args, **kwargs)
        except KitError:
            raise
        except OSError as error:
            at = f" ({error.filename})" if error.filename else ""
            raise KitError(f"the registry {registry.root}: {error.strerror or error}{at}") from error
        except Exception as error:  # of the client library of a remote root, which has classes of its own
            if registry.is_local:
                raise
            raise KitError(f"the registry {registry.root}: {type(error).__name__}: {error}") from error

    return call


class ArtifactRegistry:
    """Publishes, finds and checks artifacts under `root`: a folder or a URL of fsspec; `default_root()` without one."""

    def __init__(self, root: str | Path | None = None) -> None:
        self._store: Store = open_store(default_root() if root is None else root)

    @property
    def root(self) -> str:
        """The folder or the URL."""
        return self._store.root

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder."""
        return self._store.local

    # ---- publish

    @_in_one_line
    def publish(self, artifact: Artifact, *, aliases: Iterable[str] = (), copy: bool = True) -> int:
        """Makes the next version of `artifact.name` from the files in `artifact.path`; `Artifact.save` calls it.

        Returns:
            The version's number. Two publishes at once, from any processes, get two numbers.
        """
        name = artifact.name
        if name is None:
            raise KitError("an artifact without a name can't be published; give one to save()")
        files = list_files(artifact.path, without=Path(self.root) if self._store.local else None)
        left = {} if copy else {relative: sum_file(path) for relative, path in files}

        def metadata(number: int, sums: dict[str, FileSum]) -> bytes:
            content = {relative: dataclasses.asdict(each) for relative, each in sorted((left or sums).items())}
            body = {"format": _FORMAT, **artifact.to_dict(), "version": number, "in_place": not copy, "files": content}
            if not copy:
                body["path"] = str(artifact.path.absolute())
            return json_bytes(seal(body))

        number = self._store.publish(name, files if copy else (), metadata)
        for alias in aliases:
            self.set_alias(name, alias, number)
        self._refresh_index()
        return number

    @_in_one_line
    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Makes `name:alias` mean this version from now on.

        Raises:
            KitError: there is no such version, or the alias is one that can't be.
        """
        check_alias(alias)
        if version not in self.versions(name):
            raise self._missing(Reference(name, f"v{version}"))
        self._store.write(f"{name}/{_ALIASES}/{alias}.json", json_bytes({"version": version}))

    # ---- find

    @_in_one_line
    def names(self) -> list[str]:
        """The names of all artifacts, sorted."""
        return sorted(name for name in self._store.folders("") if not name.startswith("."))

    @_in_one_line
    def versions(self, name: str) -> list[int]:
        """The version numbers of `name`, rising; none where there is no such artifact."""
        return self._store.versions(name)

    def aliases(self, name: str) -> dict[str, int]:
        """Alias → version of `name`, `latest` included."""
        found = {}
        for file in sorted(self._store.names(f"{name}/{_ALIASES}")):
            if file.endswith(".json") and not file.startswith("."):
                where = f"{name}/{_ALIASES}/{file}"
                found[file.removesuffix(".json")] = int(parse_json(self._store.read(where), where)["version"])
        numbers = self.versions(name)
        return {LATEST: numbers[-1], **found} if numbers else found

    @_in_one_line
    def find(self, reference: str | Reference, *, type_name: str | None = None) -> Reference:
        """The reference with its alias replaced by the version it means now.

        Raises:
            KitError: there is no such artifact (the near names are listed) or no such version.
        """
        parsed = parse_reference(reference, type_name=type_name) if isinstance(reference, str) else reference
        if parsed.scope:
            parsed = self._scoped(parsed)
        number = parsed.version or self.aliases(parsed.name).get(parsed.selector)
        if number not in self.versions(parsed.name):
            raise self._missing(parsed)
        return Reference(parsed.name, f"v{number}")

    def _scoped(self, reference: Reference) -> Reference:
        """`entity/project/name:v3` is the version that the tracker calls so, else the version v3 of `name` here."""
        if reference.version is not None:
            for number in self.versions(reference.name):
                tracking = self.metadata(Reference(reference.name, f"v{number}")).get("tracking") or {}
                if tracking.get("artifact_id") == str(reference):
                    return Reference(reference.name, f"v{number}")
        return Reference(reference.name, reference.selector)

    def _missing(self, reference: Reference) -> KitError:
        numbers = self.versions(reference.name)
        if numbers:
            aliases = [alias for alias in self.aliases(reference.name) if alias != LATEST]
            span = f"v{numbers[0]}" if len(numbers) == 1 else f"v{numbers[0]} to v{numbers[-1]}"
            also = f", aliases {', '.join(aliases)}" if aliases else ""
            return KitError(f"{reference.name} has no {reference.selector} in {self.root}; it has {span}{also}")
        names = self.names()
        near = difflib.get_close_matches(reference.name, names, n=3, cutoff=0.4) or names[:3]
        hint = f"near it: {', '.join(near)}" if near else "it is empty"
        return KitError(
            f"no artifact {reference.name!r} in {self.root} ({hint}); run the step that makes it, name another one "
            f"with --art, or set {ROOT_VARIABLE}"
        )

    @_in_one_line
    def metadata(self, reference: str | Reference) -> dict[str, Any]:
        """The metadata.json of a version, as it was sealed at publishing.

        Raises:
            KitError: there is no such version, or its metadata.json can't be read.
        """
        where = self._home(self.find(reference) if isinstance(reference, str) else reference)
        try:
            return parse_json(self._store.read(f"{where}/{METADATA_FILE}"), f"{self.root}/{where}/{METADATA_FILE}")
        except FileNotFoundError as error:
            raise KitError(f"{self.root}/{where} has no {METADATA_FILE}") from error

    @staticmethod
    def _home(reference: Reference) -> str:
        return f"{reference.name}/{reference.selector}"

    @_in_one_line
    def resolve(self, reference: str | Reference, *, type_name: str | None = None) -> Artifact:
        """The artifact with its files on this machine; from a remote root they are fetched once and checked.

        Raises:
            KitError: there is no such artifact, its folder was left elsewhere and is gone, or a fetched file differs
                from its checksum.
        """
        found = self.find(reference, type_name=type_name)
        metadata = self.metadata(found)
        if metadata.get("in_place"):
            path = Path(metadata["path"])
            if not path.is_dir():
                raise KitError(
                    f"{found} was published in place at {path}, which is gone; restore it or run its step again"
                )
        elif self._store.local:
            path = Path(self.root, self._home(found))
        else:
            path = self._fetch(found, metadata)
        return Artifact.from_dict(metadata, path=path)

    def _fetch(self, reference: Reference, metadata: dict[str, Any]) -> Path:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = hashlib.sha256(self.root.encode()).hexdigest()[:16]
        home = Path(cache, "nemotron", "artifacts", root, reference.name)
        home.mkdir(parents=True, exist_ok=True)
        # The seal names the content: a bucket that was emptied and filled again is not mistaken for the old one.
        target = home / f"{reference.selector}-{metadata['sha256'][:12]}"
        with file_lock(home / f".{reference.selector}.lock"):
            for relative, expected in metadata["files"].items():
                if not (target / relative).is_file():
                    self._fetch_file(f"{self._home(reference)}/{relative}", target / relative, expected["sha256"])
            target.mkdir(exist_ok=True)
            (target / METADATA_FILE).write_bytes(json_bytes(metadata))
        return target

    def _fetch_file(self, path: str, target: Path, sha256: str) -> None:
        partial = target.with_name(f".{target.name}.tmp")
        self._store.fetch(path, partial)
        found = sum_file(partial).sha256
        if found != sha256:
            partial.unlink()
            raise KitError(f"{self.root}/{path} was changed: SHA-256 {found} instead of {sha256}; publish it again")
        os.replace(partial, target)

    # ---- check, list, show

    @_in_one_line
    def verify(self, reference: str | Reference) -> list[str]:
        """What differs from the checksums taken at publishing, one line each; nothing where all is as it was."""
        found = self.find(reference)
        where = f"{self._home(found)}/{METADATA_FILE}"
        raw = self._store.read(where)
        metadata = parse_json(raw, f"{self.root}/{where}")
        if not seal_is_whole(metadata) or json_bytes(metadata) != raw:
            return [f"{METADATA_FILE}: changed"]
        here = self._files_now(found, metadata)
        problems = [f"{relative}: missing" for relative in metadata["files"] if relative not in here]
        problems += [f"{relative}: added" for relative in sorted(here) if relative not in metadata["files"]]
        for relative, expected in metadata["files"].items():
            if relative in here and dataclasses.asdict(here[relative]) != expected:
                problems.append(f"{relative}: changed")
        return problems

    def _files_now(self, reference: Reference, metadata: dict[str, Any]) -> dict[str, FileSum]:
        if metadata["in_place"] or self._store.local:
            folder = Path(metadata["path"]) if metadata["in_place"] else Path(self.root, self._home(reference))
            return {relative: sum_file(path) for relative, path in list_files(folder)}
        sums = {}
        for relative in metadata["files"]:
            with contextlib.suppress(FileNotFoundError):
                sums[relative] = self._store.sum(f"{self._home(reference)}/{relative}")
        return sums

    @_in_one_line
    def list(self, name: str | None = None) -> list[ArtifactSummary]:
        """All versions, by name and then number; of one artifact where `name` is given.

        Raises:
            KitError: there is no artifact of that name.
        """
        entries = self._refresh_index()["artifacts"]
        if name is not None and name not in entries:
            raise self._missing(Reference(name))
        found = []
        for each in sorted(entries) if name is None else [name]:
            aliases = self.aliases(each)
            for number, entry in sorted(entries[each].items(), key=lambda item: int(item[0])):
                names = sorted(alias for alias, version in aliases.items() if version == int(number))
                facts = {key: value for key, value in entry.items() if key != "left_at"}
                path = entry["left_at"] or f"{self.root}/{each}/v{number}"
                found.append(ArtifactSummary(each, int(number), path=path, aliases=names, **facts))
        return found

    @_in_one_line
    def show(self, reference: str) -> dict[str, Any]:
        """All that is known of a version: its metadata.json, its reference, its aliases and where its files are."""
        found = self.find(reference)
        metadata = self.metadata(found)
        aliases = sorted(alias for alias, number in self.aliases(found.name).items() if number == found.version)
        location = metadata["path"] if metadata.get("in_place") else f"{self.root}/{self._home(found)}"
        return {"reference": str(found), "aliases": aliases, "location": location, **metadata}

    @_in_one_line
    def lineage(self, reference: str) -> lineage.LineageNode:
        """What the version was made from, and that from what, down to the sources."""
        return lineage.trace(self.find(reference), self._known_metadata)

    def _known_metadata(self, reference: Reference) -> dict[str, Any] | None:
        try:
            return self.metadata(reference)
        except KitError:
            return None

    # ---- the index

    @_in_one_line
    def clean(self, *, older_than_s: float = 86_400.0) -> builtins.list[str]:
        """Removes what killed publishes left behind, and returns those paths."""
        return self._store.clean(older_than_s)

    def _refresh_index(self) -> dict[str, Any]:
        """The index, first made to agree with the folders. Without a lock (object stores) each writer looks again after
        its write, so the last one to write has seen every version that was there before."""
        index = self._read_index()
        while _versions_in(index) != self._versions_here():
            with self._store.lock():
                index = self._index_of(self._read_index()["artifacts"])
                self._store.write(INDEX_FILE, json_bytes(index))
            if self._store.local:
                break
            index = self._read_index()
        return index

    def _versions_here(self) -> dict[str, builtins.list[int]]:
        return {name: numbers for name in self.names() if (numbers := self.versions(name))}

    def _index_of(self, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
        artifacts: dict[str, dict[str, Any]] = {}
        for name, numbers in self._versions_here().items():
            old = known.get(name, {})
            artifacts[name] = {str(number): old.get(str(number)) or self._entry(name, number) for number in numbers}
        return {"format": _FORMAT, "artifacts": artifacts}

    def _entry(self, name: str, number: int) -> dict[str, Any]:
        reference = Reference(name, f"v{number}")
        try:
            metadata = self.metadata(reference)
            return {
                "type": metadata["type"],
                "created_at": metadata["created_at"],
                "size_bytes": sum(each["size"] for each in metadata["files"].values()),
                "left_at": metadata["path"] if metadata["in_place"] else None,
                "metrics": metadata["metrics"],
            }
        except (KitError, KeyError):  # damaged by hand: listed, so that it is seen; `verify` says what is wrong
            return {"type": "unreadable", "created_at": "", "size_bytes": None, "left_at": None, "metrics": {}}

    def _read_index(self) -> dict[str, Any]:
        try:
            index = parse_json(self._store.read(INDEX_FILE), INDEX_FILE)
        except (FileNotFoundError, KitError):  # missing or damaged: derived anew
            return {"format": _FORMAT, "artifacts": {}}
        artifacts = index.get("artifacts")
        return index if index.get("format") == _FORMAT and isinstance(artifacts, dict) else {"artifacts": {}}


def _versions_in(index: dict[str, Any]) -> dict[str, list[int]]:
    return {name: sorted(int(number) for number in entries) for name, entries in index["artifacts"].items() if entries}
