"""`inference ner` over many notes: progress on stderr, output streamed or resumable."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

import click
from medvllm_kernels import native

import medvllm
from medvllm.cli._click import counted
from medvllm.errors import MedvllmError
from medvllm.tasks.batch import BATCH_FORMATS, NEROptions, Plan, Result, map_local, map_ray, plan, shared_processor
from medvllm.tasks.batch_output import ResumableOutput
from medvllm_programs.commands import reader_gone, warn

__all__ = ["run_batch"]

MAX_SHOWN_ERRORS = 20
LEAST_TIMED_BYTES = 100_000  # below them a run is mostly its start, whose speed says nothing


class _Stream:
    """Output that can't be gone on with: stdout, a pipe, a device. Counts as ResumableOutput does."""

    def __init__(self, file: IO[str], header: str) -> None:
        self._file = file
        self.notes = self.entities = self.failed = 0
        file.write(header)

    def write(self, output: str, *, notes: int, entities: int, failed: int) -> None:
        """Writes output and counts."""
        self._file.write(output)
        self.notes += notes
        self.entities += entities
        self.failed += failed

    def finish(self) -> None:
        """Hands on what is buffered."""
        self._file.flush()

    def suspend(self) -> None:
        """Nothing is kept."""


def run_batch(
    inputs: tuple[str, ...],
    options: NEROptions,
    *,
    fmt: str | None,
    input_format: str,
    encoding: str | None,
    output: Path | None,
    workers: int | None,
    engine: str,
    restart: bool,
    digest: str | None = None,
) -> None:
    """Processes many notes; exits with 1 at the end when some could not be read.

    `digest` stands for the content of an input whose name changes from run to run (a pipe).
    """
    fmt = fmt or "jsonl"
    if fmt not in BATCH_FORMATS:
        raise click.UsageError(f"--format {fmt} shows one note; for many choose one of {', '.join(BATCH_FORMATS)}")
    work = plan(inputs, input_format=input_format, encoding=encoding, leave_out=output)
    if native.library() is None:
        warn(f"running without the native library, which is many times faster: {native.status()}")
    processor = shared_processor(options)  # an option that can't work fails here, not in every worker
    for remark in (*work.remarks, *processor.remarks):
        warn(remark)
    stores = [layer.get("content_sha256") for layer in processor.store.info()]
    settings = {**asdict(options), "user_stores": stores, "model_version": processor.model_version}
    key = [medvllm.__version__, settings, fmt, digest or work.fingerprint()]
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        sink = _sink(stack, output, key, _header(fmt), restart)
        stack.callback(sink.suspend)
        before = sink.notes
        if before:
            click.echo(f"Going on after {counted(before, 'note')} of an earlier run", err=True)
        size = 0
        try:
            with _progress(work) as advance:
                for result in _results(work, options, fmt, engine=engine, workers=workers, skip=before):
                    _report(result, sink.failed)
                    sink.write(result.output, notes=result.notes, entities=result.entities, failed=len(result.errors))
                    size += result.size
                    advance(result.size)
            sink.finish()
        except BrokenPipeError:
            if output is not None:
                raise
            reader_gone()  # here, for click would exit with 1
        except KeyboardInterrupt:
            if isinstance(sink, _Stream):
                raise
            again = "run the same command again to go on"
            click.echo(f"Error: interrupted after {counted(sink.notes, 'note')}; {again}", err=True)
            raise click.exceptions.Exit(130) from None
    seconds = max(time.monotonic() - started, 1e-9)
    speed = f"; {size / 1e6 / seconds:.2f} MB/s" if size >= LEAST_TIMED_BYTES else ""
    found = f"{counted(sink.notes, 'note')}, {counted(sink.entities, 'entity', 'entities')}"
    click.echo(f"{found} ({seconds:.1f} s{speed})", err=True)
    if sink.failed:
        raise MedvllmError(f"{sink.failed:,} of {sink.notes:,} notes could not be read; the others are done")


def _sink(
    stack: contextlib.ExitStack, output: Path | None, key: object, header: str, restart: bool
) -> ResumableOutput | _Stream:
    if output is None:
        return _Stream(sys.stdout, header)
    if output.exists() and not output.is_file() and not output.is_dir():
        return _Stream(stack.enter_context(open(output, "w", encoding="utf-8")), header)
    return ResumableOutput(output, key, header=header, restart=restart)


def _header(fmt: str) -> str:
    if fmt != "csv":
        return ""
    from medvllm.tasks.formats.csv_format import csv_header

    return csv_header()


def _results(
    work: Plan, options: NEROptions, fmt: str, *, engine: str, workers: int | None, skip: int
) -> Iterator[Result]:
    pieces = work.pieces(skip)
    if engine == "ray":
        return map_ray(pieces, options, work, fmt)
    count = workers or len(os.sched_getaffinity(0))
    if workers is None and (work.size < 2_000_000 or options.model is not None):
        count = 1  # starting processes costs more than the work, and a model uses all cores by itself
    return map_local(pieces, options, work, fmt, workers=count)


def _report(result: Result, shown: int) -> None:
    for number, error in enumerate(result.errors, shown + 1):
        if number <= MAX_SHOWN_ERRORS:
            warn(error)
        elif number == MAX_SHOWN_ERRORS + 1:
            warn("further notes that could not be read are not listed")


@contextlib.contextmanager
def _progress(work: Plan) -> Iterator[Callable[[int], None]]:
    """A bar over the bytes of the input where stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda size: None
        return
    with click.progressbar(length=work.size, label=f"{len(work.files):,} files", file=sys.stderr) as bar:
        yield bar.update
