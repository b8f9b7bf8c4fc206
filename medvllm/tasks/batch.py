"""NER over many notes, in this process, in several, or on a Ray cluster.

Each piece of the work (see batch_plan) is processed by the same function wherever it runs, and results come back in the
order of the input.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from medvllm.errors import MedvllmError, missing
from medvllm.tasks.batch_plan import Piece, Plan, is_batch, plan

if TYPE_CHECKING:
    from medvllm.tasks.formats.document import Document
    from medvllm.tasks.ner_processor import NERProcessor

__all__ = [
    "BATCH_FORMATS",
    "NERModel",
    "NEROptions",
    "Piece",
    "Plan",
    "Result",
    "is_batch",
    "map_local",
    "map_ray",
    "plan",
]

BATCH_FORMATS = ("jsonl", "csv", "fhir")


@dataclass(frozen=True, slots=True)
class NERModel:
    """The model of model-backed NER: its name or folder, and how it is used; see TokenClassifier."""

    name: str
    label_map: tuple[tuple[str, str | None], ...] = ()
    ensemble: bool = False
    aggregation: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 16
    allow_pickle: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True, slots=True)
class NEROptions:
    """What a processor is made from; small enough to send to another process."""

    ontology: str = "UMLS"
    strict_ontology: bool = False
    link: bool = True
    fast: bool = False
    nested: bool = False
    user_stores: tuple[str, ...] = ()
    model: NERModel | None = None

    def processor(self) -> NERProcessor:
        """A processor with these options."""
        if self.model is not None:
            from medvllm.tasks.model_ner import model_processor

            return model_processor(self, self.model)
        from medvllm.tasks.ner_processor import NERProcessor

        return NERProcessor(
            ontology=self.ontology,
            strict_ontology=self.strict_ontology,
            link=self.link,
            fast=self.fast,
            nested=self.nested,
            user_stores=self.user_stores,
        )


class Result(NamedTuple):
    """What a piece gave: its output, and how much there was; `errors` are one line each."""

    output: str
    notes: int
    entities: int
    size: int
    errors: Sequence[str]


@functools.lru_cache(maxsize=1)
def shared_processor(options: NEROptions) -> NERProcessor:
    """The processor of this process for these options, made on the first call."""
    return options.processor()


def process(piece: Piece, options: NEROptions, fmt: str, input_format: str, encoding: str | None) -> Result:
    """Processes one piece; a note that can't be read becomes an error and does not stop the others."""
    processor = shared_processor(options)
    lines: list[str] = []
    errors: list[str] = []
    entities = 0
    notes = list(_notes(piece, input_format, encoding))
    documents = iter(processor.documents((identifier, text) for identifier, text, error in notes if error is None))
    for identifier, _, error in notes:
        if error is not None:
            errors.append(error)
            if fmt == "jsonl":
                lines.append(json.dumps({"id": identifier, "error": error}, ensure_ascii=False))
            continue
        document = next(documents)
        entities += len(document.entities)
        lines.append(_rendered(document, fmt))
    output = "".join(line if line.endswith("\n") else line + "\n" for line in lines if line)
    return Result(output, piece.notes, entities, piece.size, tuple(errors))


def _rendered(document: Document, fmt: str) -> str:
    if fmt == "csv":
        from medvllm.tasks.formats.csv_format import csv_rows

        return csv_rows(document.id, document.entities)
    if fmt == "fhir":
        from medvllm.tasks.formats.fhir import bundle

        return json.dumps(bundle([document]), ensure_ascii=False)
    from medvllm.tasks.formats.json_format import to_jsonl

    return to_jsonl(document.id, document.entities)


def _notes(piece: Piece, input_format: str, encoding: str | None) -> Iterator[tuple[str, str, str | None]]:
    """(id, text, error) of each note of a piece."""
    from medvllm.utils.documents import jsonl_note, read_note

    if not piece.is_range:
        for file in piece.files:
            try:
                yield file, read_note(Path(file), input_format=input_format, encoding=encoding), None
            except MedvllmError as error:
                yield file, "", str(error)
            except OSError as error:
                yield file, "", f"{file} can't be read: {error.strerror}"
        return
    name = piece.files[0]
    with open(name, "rb") as stream:
        stream.seek(piece.start)
        data = stream.read(piece.end - piece.start)
    for number, line in enumerate(data.split(b"\n"), piece.first_line):
        if line.strip():
            try:
                note = jsonl_note(line, name, number, encoding)
            except MedvllmError as error:
                yield f"{name}:{number}", "", str(error)
            else:
                yield note.id, note.text, None


def map_local(pieces: Iterable[Piece], options: NEROptions, plan: Plan, fmt: str, *, workers: int) -> Iterator[Result]:
    """The results in order, from `workers` processes (1: this one); a few pieces at most are under way.

    Raises:
        MedvllmError: a worker died.
    """
    arguments = (options, fmt, plan.input_format, plan.encoding)
    if workers == 1:
        for piece in pieces:
            yield process(piece, *arguments)
        return
    import multiprocessing
    from concurrent.futures import Future, ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    under_way: deque[Future[Result]] = deque()
    try:
        for piece in pieces:
            under_way.append(pool.submit(process, piece, *arguments))
            if len(under_way) > 2 * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    except BrokenProcessPool as error:
        raise MedvllmError(
            "a worker process died (out of memory?); run the same command again to go on, with fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    """In a worker: leaves Ctrl-C to the parent, and ends when the parent does, however it ends."""
    import multiprocessing
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def end_with_parent() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=end_with_parent, daemon=True).start()


def map_ray(pieces: Iterable[Piece], options: NEROptions, plan: Plan, fmt: str) -> Iterator[Result]:
    """The results in order, from a Ray cluster (the one of `RAY_ADDRESS`, else one on this machine).

    The cluster's machines see the same files and have medvllm installed.

    Raises:
        MedvllmError: Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MedvllmError(f"--engine ray needs the extra: {missing('ray')}") from error

    started = not ray.is_initialized()
    if started:
        # A worker of the cluster finds this checkout, or this installation, where this process does.
        environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}}
        ray.init(log_to_driver=False, logging_level="error", runtime_env=environment)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    arguments = (options, fmt, plan.input_format, plan.encoding)
    folder = os.getcwd()

    def run(row: dict[str, str]) -> dict[str, str]:
        os.chdir(folder)  # names of files are as they were given
        piece = Piece(**json.loads(row["piece"]))
        return {"result": json.dumps(process(piece, *arguments)._asdict())}

    rows = [{"piece": json.dumps(piece._asdict())} for piece in pieces]
    try:
        for row in ray.data.from_items(rows).map(run).iter_rows():
            yield Result(**json.loads(row["result"]))
    finally:
        if started:
            ray.shutdown()
