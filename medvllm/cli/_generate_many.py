"""`inference generate --prompts-file`: many prompts in, a line of JSON out for each, in their order; resumable."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

import medvllm
from medvllm.cli._click import counted
from medvllm.cli._generate import GenerateCommand, load, profile_line, profiled, warnings_as_lines
from medvllm.errors import MedvllmError
from medvllm.tasks.batch_output import ResumableOutput
from medvllm.tasks.generation.options import GenerationOptions
from medvllm.utils.documents import Note, jsonl_note
from medvllm_programs.commands import warn

if TYPE_CHECKING:
    from medvllm.tasks.generation.result import GenerationResult
    from medvllm.tasks.text_generator import TextGenerator

__all__ = ["run_many"]

GROUP = 64  # prompts computed together, written together, and lost together by a kill
MAX_SHOWN_ERRORS = 20


class _Standard:
    """stdout as the output: counts as ResumableOutput does, and can't be gone on with."""

    def __init__(self) -> None:
        self.notes = self.entities = self.failed = 0

    def write(self, output: str, *, notes: int, entities: int, failed: int) -> None:
        """Prints lines and counts."""
        click.echo(output, nl=False)
        self.notes += notes
        self.entities += entities
        self.failed += failed

    def sync(self) -> None:
        """Nothing to make sure."""

    def finish(self) -> None:
        """Nothing to rename."""

    def suspend(self) -> None:
        """Nothing is kept."""


def run_many(command: GenerateCommand, options: GenerationOptions) -> None:
    """All prompts of the file; exits with 1 at the end where some could not be answered, with 130 after Ctrl-C."""
    path = command.prompts_file
    assert path is not None
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_opened(path))
        key = [medvllm.__version__, _settings(command, options), _state(path), _state_of_model(command.model)]
        sink: ResumableOutput | _Standard = _Standard()
        if command.output is not None:
            sink = ResumableOutput(command.output, key, restart=command.restart)
        stack.callback(sink.suspend)
        before = sink.notes
        if before:
            click.echo(f"Going on after {counted(before, 'prompt')} of an earlier run", err=True)
        generator = load(command, options)
        results = stack.enter_context(profiled(command))
        stack.enter_context(warnings_as_lines())
        try:
            began = time.monotonic()
            tokens = _all_groups(command, options, generator, file, path, sink)
            sink.finish()
        except KeyboardInterrupt:
            again = "" if command.output is None else "; run the same command again to go on"
            click.echo(f"Error: interrupted after {counted(sink.notes, 'prompt')}{again}", err=True)
            sys.exit(130)
        seconds = max(time.monotonic() - began, 1e-9)
        click.echo(
            f"{counted(sink.notes, 'prompt')}, {counted(tokens, 'token')} ({seconds:.1f} s, {tokens / seconds:.1f}/s)",
            err=True,
        )
    if results:
        click.echo(profile_line(results), err=True)
    if sink.failed:
        raise MedvllmError(f"{sink.failed:,} of {sink.notes:,} prompts could not be answered; the others are done")


def _all_groups(
    command: GenerateCommand,
    options: GenerationOptions,
    generator: TextGenerator,
    file: IO[bytes],
    path: Path,
    sink: ResumableOutput | _Standard,
) -> int:
    """Answers what is left of the file group by group; returns the tokens generated."""
    tokens = shown = 0
    with _progress(path) as advance:
        prompts = _prompts(file, str(path), command.encoding)
        for _ in range(sink.notes):
            advance(next(prompts)[1])
        while group := list(itertools.islice(prompts, GROUP)):
            lines, errors = [], 0
            for identifier, result in _answers(generator, [prompt for prompt, _ in group], options, command):
                if isinstance(result, MedvllmError):
                    errors += 1
                    shown = _say(str(result), shown)
                    lines.append({"id": identifier, "error": str(result)})
                else:
                    tokens += sum(one.num_tokens for one in result.outputs)
                    lines.append(_row(identifier, result, command))
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            sink.write(text, notes=len(group), entities=0, failed=errors)
            sink.sync()
            advance(sum(size for _, size in group))
    return tokens


def _answers(
    generator: TextGenerator,
    prompts: Sequence[Note | MedvllmError],
    options: GenerationOptions,
    command: GenerateCommand,
) -> Iterator[tuple[str | None, GenerationResult | MedvllmError]]:
    """Each prompt's id and answer; a line that could not be read answers with its error."""
    good = [prompt for prompt in prompts if isinstance(prompt, Note)]
    results = iter(generator.generate_many([prompt.text for prompt in good], options, report=command.json_meta))
    for prompt in prompts:
        if isinstance(prompt, MedvllmError):
            yield None, prompt
            continue
        result = next(results)
        if isinstance(result, MedvllmError):
            result = MedvllmError(f"{command.prompts_file}, id {prompt.id}: {result}")
        yield prompt.id, result


def _row(identifier: str | None, result: GenerationResult, command: GenerateCommand) -> dict[str, Any]:
    row: dict[str, Any] = {"id": identifier, "text": result.text}
    if len(result.outputs) > 1:
        row["texts"] = [one.text for one in result.outputs]
    if command.json_meta:
        row["metadata"] = result.metadata
    return row


def _prompts(file: IO[bytes], name: str, encoding: str | None) -> Iterator[tuple[Note | MedvllmError, int]]:
    """Each line's prompt, or what is wrong with it, and its size in bytes; empty lines are none."""
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            note = jsonl_note(line, name, number, encoding)
            if not note.text.strip():
                raise MedvllmError(f"{name}, line {number}: 'text' is empty; give some text")
            yield note, len(line)
        except MedvllmError as error:
            yield error, len(line)


def _opened(path: Path) -> IO[bytes]:
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise MedvllmError(f"--prompts-file: there is no file {path}") from error
    except IsADirectoryError as error:
        raise MedvllmError(f"--prompts-file: {path} is a folder; give a JSONL file") from error


def _settings(command: GenerateCommand, options: GenerationOptions) -> dict[str, Any]:
    """The options that change what is written, as JSON values."""
    own = {"model": command.model, "encoding": command.encoding, "json_meta": command.json_meta}
    return own | asdict(options) | asdict(replace(command.engine, threads=None))


def _state(path: Path) -> list[Any]:
    state = path.stat()
    return [os.path.realpath(path), state.st_size, state.st_mtime_ns]


def _state_of_model(name: str) -> list[list[Any]]:
    """Name, size and time of change of the model's files: another model of that name does not go on with this run."""
    from medvllm.models.files import resolve_model

    return [_state(file) for file in resolve_model(name).weights]


def _say(error: str, shown: int) -> int:
    if shown < MAX_SHOWN_ERRORS:
        warn(error)
    elif shown == MAX_SHOWN_ERRORS:
        warn("further prompts that could not be answered are not listed")
    return shown + 1


@contextlib.contextmanager
def _progress(path: Path) -> Iterator[Any]:
    """A bar over the bytes of the file where stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda size: None
        return
    with click.progressbar(length=path.stat().st_size, label=path.name, file=sys.stderr) as bar:
        yield bar.update
