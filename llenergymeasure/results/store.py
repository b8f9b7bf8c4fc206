"""The results folder: where each file of an experiment lies, written whole or not at all.

    raw/<id>/process_N.json               one process; cycle_K/process_N.json when there are several cycles
    raw/<id>/.completed_N                 marker written after it, beside it
    raw/<id>/manifest.jsonl               hashes of all of these (manifest.py)
    aggregated/<id>.json                  all processes and cycles together
    aggregated/<id>_multi_cycle.json      how the cycles varied

Processes and cycles count from 0.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from llenergymeasure.errors import LemError
from llenergymeasure.files import make_folder, write_atomically
from llenergymeasure.results import manifest
from llenergymeasure.results.schema import SCHEMA_VERSION, AggregatedResult, MultiCycleResult, RawResult

__all__ = ["Marker", "ResultStore", "StoredExperiment", "StoredRaw"]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_Record = TypeVar("_Record", bound=BaseModel)
MULTI_CYCLE = "_multi_cycle"


class Marker(BaseModel):
    """`.completed_N`: this process has finished, and this is its result."""

    process_index: int
    cycle: int
    gpu_uuids: list[str]
    path: str  # the result, under the results folder
    completed_at: str
    sha256_prefix: str  # first 16 hexadecimal digits


@dataclass(frozen=True, slots=True)
class StoredRaw:
    """One process's result and its marker, if it has one."""

    path: Path
    result: RawResult
    marker: Marker | None
    sha256: str

    @property
    def intact(self) -> bool:
        """Whether the marker is there and names this very content."""
        return self.marker is not None and self.sha256.startswith(self.marker.sha256_prefix)


@dataclass(frozen=True, slots=True)
class StoredExperiment:
    """One line of `results list`."""

    id: str
    status: str  # "aggregated", "pending" (raw results, not aggregated), "unreadable"
    aggregated: AggregatedResult | None
    raw: RawResult | None  # the first, of a pending one
    files: int  # raw results there
    reason: str | None = None  # why it is unreadable


class ResultStore:
    """The results under one folder."""

    def __init__(self, results_dir: Path | str) -> None:
        self.root = Path(results_dir).expanduser()

    # Paths.

    def raw_folder(self, experiment_id: str) -> Path:
        """`raw/<id>`, whether or not it is there.

        Raises:
            LemError: the id can't name a folder.
        """
        if not _ID.fullmatch(experiment_id):
            raise LemError(f"an experiment id is letters, digits, '.', '_' and '-', got {experiment_id!r}")
        return self.root / "raw" / experiment_id

    def raw_path(self, experiment_id: str, process: int, cycle: int | None = None) -> Path:
        """A process's result; `cycle` is None for an experiment of one cycle."""
        folder = self.raw_folder(experiment_id)
        return (folder if cycle is None else folder / f"cycle_{cycle}") / f"process_{process}.json"

    def marker_path(self, experiment_id: str, process: int, cycle: int | None = None) -> Path:
        """The marker beside `raw_path`."""
        return self.raw_path(experiment_id, process, cycle).with_name(f".completed_{process}")

    def aggregated_path(self, experiment_id: str) -> Path:
        """`aggregated/<id>.json`."""
        self.raw_folder(experiment_id)
        return self.root / "aggregated" / f"{experiment_id}.json"

    def multi_cycle_path(self, experiment_id: str) -> Path:
        """`aggregated/<id>_multi_cycle.json`."""
        return self.aggregated_path(experiment_id).with_name(f"{experiment_id}{MULTI_CYCLE}.json")

    # Writing.

    def write_raw(self, result: RawResult) -> Path:
        """Writes a process's result, then its marker, then both into the manifest; returns the result's path.

        Raises:
            LemError: the folder can't be written, or the disk is full; nothing is left half written.
        """
        cycle = result.cycle if int(result.config.get("num_cycles") or 1) > 1 else None
        path = self.raw_path(result.experiment_id, result.process_index, cycle)
        make_folder(path.parent)
        data = result.model_dump_json(indent=1).encode() + b"\n"
        write_atomically(path, data)
        marker = Marker(
            process_index=result.process_index,
            cycle=result.cycle,
            gpu_uuids=result.gpu_uuids,
            path=path.relative_to(self.root).as_posix(),
            completed_at=result.finished_at,
            sha256_prefix=manifest.file_sha256(path)[:16],
        )
        marker_path = self.marker_path(result.experiment_id, result.process_index, cycle)
        write_atomically(marker_path, marker.model_dump_json().encode() + b"\n")
        self.record(result.experiment_id, [path, marker_path])
        return path

    def write_aggregated(self, result: AggregatedResult, cycles: MultiCycleResult | None) -> Path:
        """Writes an aggregate, and the cycles' statistics where there are any."""
        folder, path = self.raw_folder(result.experiment_id), self.aggregated_path(result.experiment_id)
        make_folder(path.parent)
        written = [path]
        if cycles is not None:
            multi = self.multi_cycle_path(result.experiment_id)
            write_atomically(multi, cycles.model_dump_json(indent=1).encode() + b"\n")
            written.append(multi)
        write_atomically(path, result.model_dump_json(indent=1).encode() + b"\n")
        self.record(result.experiment_id, [*manifest.unrecorded(folder, self.root), *written])
        return path

    def record(self, experiment_id: str, files: Iterable[Path]) -> str:
        """Puts files of an experiment (a configuration, a power trace) into its manifest; returns the chain's head."""
        return manifest.append(self.raw_folder(experiment_id), self.root, files)

    # Reading.

    def ids(self) -> list[str]:
        """Experiments with any file, in the order of their ids, which is that of time."""
        found = {path.name for path in _folder(self.root / "raw") if path.is_dir() and _ID.fullmatch(path.name)}
        found |= {
            path.stem
            for path in _folder(self.root / "aggregated")
            if path.suffix == ".json" and not path.stem.endswith(MULTI_CYCLE) and _ID.fullmatch(path.stem)
        }
        return sorted(found)

    def check(self, experiment_id: str) -> str:
        """The id, if there is such an experiment.

        Raises:
            LemError: there is none; names the nearest.
        """
        self.raw_folder(experiment_id)
        ids = self.ids()
        if experiment_id in ids:
            return experiment_id
        if not ids:
            raise LemError(f"there are no results in {self.root}; give the folder with --results-dir")
        near = difflib.get_close_matches(experiment_id, ids, n=3, cutoff=0.6) or ids[-3:]
        raise LemError(f"there is no experiment {experiment_id} in {self.root}; near it: {', '.join(near)}")

    def raw_paths(self, experiment_id: str) -> list[Path]:
        """The raw results that are there, by cycle and process."""
        folder = self.raw_folder(experiment_id)
        found = [*folder.glob("process_*.json"), *folder.glob("cycle_*/process_*.json")]
        return sorted(found, key=lambda path: [int(each) for each in re.findall(r"(?:cycle|process)_(\d+)", str(path))])

    def read_raw(self, path: Path) -> StoredRaw:
        """One raw result with its marker.

        Raises:
            LemError: it is not one.
        """
        result = _read(path, RawResult)
        marker = path.with_name(f".completed_{result.process_index}")
        return StoredRaw(path, result, _read(marker, Marker) if marker.is_file() else None, manifest.file_sha256(path))

    def raws(self, experiment_id: str) -> list[StoredRaw]:
        """All raw results of an experiment, by cycle and process."""
        return [self.read_raw(path) for path in self.raw_paths(experiment_id)]

    def load(self, experiment_id: str) -> AggregatedResult:
        """An aggregated experiment.

        Raises:
            LemError: there is none of that id, it is not aggregated yet, or its file is damaged.
        """
        path = self.aggregated_path(self.check(experiment_id))
        if not path.is_file():
            raise LemError(f"{experiment_id} is not aggregated yet; run: lem aggregate {experiment_id}")
        return _read(path, AggregatedResult)

    def load_multi_cycle(self, experiment_id: str) -> MultiCycleResult | None:
        """The statistics over cycles, if there were several."""
        path = self.multi_cycle_path(experiment_id)
        return _read(path, MultiCycleResult) if path.is_file() else None

    def _stored(self, experiment_id: str) -> StoredExperiment:
        paths = self.raw_paths(experiment_id)
        try:
            if self.aggregated_path(experiment_id).is_file():
                aggregated = _read(self.aggregated_path(experiment_id), AggregatedResult)
                return StoredExperiment(experiment_id, "aggregated", aggregated, None, len(paths))
            raw = _read(paths[0], RawResult) if paths else None
            return StoredExperiment(experiment_id, "pending", None, raw, len(paths))
        except LemError as error:
            return StoredExperiment(experiment_id, "unreadable", None, None, len(paths), str(error))

    # Aggregating and verifying.

    def aggregate(
        self,
        experiment_id: str,
        strict: bool = True,
        allow_mixed_backends: bool = False,
        *,
        force: bool = False,
    ) -> AggregatedResult:
        """Puts an experiment's raw results together, writes the result and returns it.

        Args:
            experiment_id: the experiment.
            strict: fail where a process, a cycle or a request is missing, or a file changed after it was written;
                otherwise these become warnings in the result.
            allow_mixed_backends: sum results of different backends.
            force: replace an aggregate that is there.

        Raises:
            LemError: there is no such experiment, it is aggregated already, or what the checks found.
        """
        from llenergymeasure.results.aggregate import aggregate, multi_cycle

        path = self.aggregated_path(self.check(experiment_id))
        if path.is_file() and not force:
            raise LemError(f"{experiment_id} is aggregated already, in {path}; --force does it again")
        raws = self.raws(experiment_id)
        if not raws:
            raise LemError(
                f"{experiment_id} has no raw results yet; lem experiment --resume {experiment_id} runs it on"
            )
        result = aggregate(raws, root=self.root, strict=strict, allow_mixed_backends=allow_mixed_backends)
        self.write_aggregated(result, multi_cycle(result))
        return result

    def verify(self, experiment_id: str) -> list[manifest.Problem]:
        """What does not agree with the experiment's manifest; an empty list where all does."""
        folder = self.raw_folder(self.check(experiment_id))
        return manifest.verify(
            folder, self.root, [self.aggregated_path(experiment_id), self.multi_cycle_path(experiment_id)]
        )

    def list(self) -> list[StoredExperiment]:
        """Every experiment, by id; one that can't be read says why and does not hide the others."""
        return [self._stored(each) for each in self.ids()]


def _folder(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise LemError(f"can't read {path}: {error.strerror}") from error


def _read(path: Path, model: type[_Record]) -> _Record:
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise LemError(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:
        raise LemError(f"{path} is damaged, it is not JSON ({error}); restore it or remove its experiment") from error
    version = data.get("schema_version", SCHEMA_VERSION) if isinstance(data, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise LemError(f"{path} has schema version {version}, this lem reads up to {SCHEMA_VERSION}; update lem")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise LemError(f"{path} is damaged at {where}: {first['msg']}; restore it or remove its experiment") from error
