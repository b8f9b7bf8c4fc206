"""`inference ner` over many notes: progress on stderr, output streamed or resumable."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click
from medvllm_kernels import native

import medvllm
from medvllm.cli._click import warn
from medvllm.errors import MedvllmError
from medvllm.tasks.batch import BATCH_FORMATS, NEROptions, Plan, Result, map_local, map_ray, plan
from medvllm.tasks.batch_output import ResumableOutput

__all__ = ["run_batch"]

MAX_SHOWN_ERRORS = 20


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
) -> None:
    """Processes many notes; exits with 1 at the end when some could not be read."""
    fmt = fmt or "jsonl"
    if fmt not in BATCH_FORMATS:
        raise click.UsageError(f"--format {fmt} shows one note; for many choose one of {', '.join(BATCH_FORMATS)}")
    work = plan(inputs, input_format=input_format, encoding=encoding)
    if native.library() is None:
        warn(f"running without the native library, which is many times faster: {native.status()}")
    options.processor()  # an option that can't work fails here, not in every worker
    sink = None
    if output is not None:
        key = [medvllm.__version__, asdict(options), fmt, work.fingerprint()]
        sink = ResumableOutput(output, key, restart=restart)
        if sink.notes:
            click.echo(f"Going on after {sink.notes:,} notes of an earlier run", err=True)
    header = ""
    if fmt == "csv":
        from medvllm.tasks.formats.csv_format import csv_header

        header = csv_header()
    started = time.monotonic()
    done = sink.notes if sink else 0
    entities = sink.entities if sink else 0
    size = failed = 0
    try:
        if header and not done:
            _emit(sink, header, 0, 0)
        with _progress(work) as advance:
            for result in _results(work, options, fmt, engine=engine, workers=workers, skip=done):
                _emit(sink, result.output, result.notes, result.entities)
                done, entities, size = done + result.notes, entities + result.entities, size + result.size
                failed += _report(result, failed)
                advance(result.size)
        if sink:
            sink.finish()
    except KeyboardInterrupt:
        if sink is None:
            raise
        raise MedvllmError(f"interrupted after {done:,} notes; run the same command again to go on") from None
    finally:
        if sink:
            sink.suspend()
    seconds = time.monotonic() - started
    click.echo(
        f"{done:,} notes, {entities:,} entities, {seconds:.1f} s ({size / 1e6 / max(seconds, 1e-9):.2f} MB/s)",
        err=True,
    )
    if failed:
        raise MedvllmError(f"{failed:,} of {done:,} notes could not be read; the others are done")


def _results(
    work: Plan, options: NEROptions, fmt: str, *, engine: str, workers: int | None, skip: int
) -> Iterator[Result]:
    pieces = work.pieces(skip)
    if engine == "ray":
        return map_ray(pieces, options, work, fmt)
    count = workers or len(os.sched_getaffinity(0))
    if work.size < 2_000_000 and workers is None:
        count = 1  # starting processes costs more than the work
    return map_local(pieces, options, work, fmt, workers=count)


def _emit(sink: ResumableOutput | None, output: str, notes: int, entities: int) -> None:
    if sink is not None:
        sink.write(output, notes=notes, entities=entities)
    else:
        sys.stdout.write(output)


def _report(result: Result, shown: int) -> int:
    for number, error in enumerate(result.errors, shown + 1):
        if number <= MAX_SHOWN_ERRORS:
            warn(error)
        elif number == MAX_SHOWN_ERRORS + 1:
            warn("further notes that could not be read are not listed")
    return len(result.errors)


@contextmanager
def _progress(work: Plan) -> Iterator[Callable[[int], None]]:
    """A bar over the bytes of the input where stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda size: None
        return
    with click.progressbar(length=work.size, label=f"{len(work.files):,} files", file=sys.stderr) as bar:
        yield bar.update
