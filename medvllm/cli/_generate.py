"""`inference generate`: check what was asked, load the model, print the text and its metadata."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medvllm.cli._artifacts import local_model
from medvllm.cli._click import flags_named, write_output
from medvllm.errors import MedvllmError
from medvllm.tasks.generation.options import GenerationOptions, Style
from medvllm.tasks.generation.styles import STYLES
from medvllm_programs.commands import one_line, warn

if TYPE_CHECKING:
    from medvllm.tasks.generation.result import GenerationResult
    from medvllm.tasks.text_generator import TextGenerator

__all__ = ["GenerateCommand", "load", "profile_line", "profiled", "run_generate", "warnings_as_lines"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateCommand:
    """The command line as given; each field is the option of its name."""

    model: str
    text: str | None
    source: str | None
    encoding: str | None
    prompts_file: Path | None
    restart: bool
    strategy: str | None
    max_length: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    beam_width: int | None
    length_penalty: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    stop: tuple[str, ...]
    n: int
    seed: int | None
    deterministic: bool
    purpose: str | None
    readability: str | None
    tone: str | None
    structure: str | None
    specialty: str | None
    target_words: int | None
    target_chars: int | None
    json_schema: Path | None
    no_disclaimer: bool
    json_meta: bool
    output: Path | None
    profile: bool
    profiler_device: str
    emit_trace: bool
    trace_dir: Path
    device: str
    dtype: str
    quantization: str | None
    threads: int | None
    max_model_len: int | None
    truncate: bool
    no_expand_abbreviations: bool
    kv_cache_bytes: int | None
    allow_pickle: bool
    attention_impl: str
    flash_attention: bool | None
    memory_pooling: bool | None
    pool_max_bytes: int | None
    pool_device: str | None
    compile_model: bool
    compile_mode: str | None

    def generation_options(self, json_schema: dict[str, Any] | None) -> GenerationOptions:
        """What is asked of the text, by the schema read; raises MedvllmError for values that can't be."""
        return GenerationOptions(
            strategy=self.strategy,
            max_length=self.max_length,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            beam_width=self.beam_width,
            length_penalty=self.length_penalty,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            stop=self.stop or None,
            n=self.n,
            seed=self.seed,
            style=Style(**{name: getattr(self, name) for name in STYLES}),
            target_words=self.target_words,
            target_chars=self.target_chars,
            disclaimer=not self.no_disclaimer,
            json_schema=json_schema,
            truncate=self.truncate,
            expand_abbreviations=not self.no_expand_abbreviations,
        )

    def engine_options(self, options: GenerationOptions) -> dict[str, Any]:
        """The engine's arguments; for one prompt the cache is made for its texts alone."""
        pooling = self.memory_pooling is not False
        alone = {"max_num_seqs": max(options.n, options.in_force["beam_width"] or 1)} if not self.prompts_file else {}
        return {
            **alone,
            "dtype": self.dtype,
            "device": self.device,
            "quantization": self.quantization,
            "threads": self.threads,
            "max_model_len": self.max_model_len,
            "kv_cache_bytes": self.kv_cache_bytes,
            "allow_pickle": self.allow_pickle,
            "attention_impl": self.attention_impl,
            "flash_attention": self.flash_attention,
            "memory_pooling": pooling,
            "pool_max_bytes": self.pool_max_bytes if pooling else None,
            "pool_device": "auto",  # the model's device, the one place where a pool can be
            "compile_mode": (self.compile_mode or "default") if self.compile_model else None,
            "seed": secrets.randbelow(2**31) if self.seed is None else self.seed,
            "deterministic": self.deterministic,
        }


def read_schema(path: Path) -> dict[str, Any]:
    """The JSON schema in a file.

    Raises:
        MedvllmError: the file is missing, is not JSON, or is no schema.
    """
    try:
        schema = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise MedvllmError(f"--json-schema: there is no file {path}") from error
    except IsADirectoryError as error:
        raise MedvllmError(f"--json-schema: {path} is a folder; give a file") from error
    except json.JSONDecodeError as error:
        raise MedvllmError(
            f"--json-schema: {path} is not JSON ({error.msg} at line {error.lineno}, column {error.colno})"
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise MedvllmError(f"--json-schema: {path} is not JSON that can be read ({type(error).__name__})") from error
    if not isinstance(schema, dict):
        raise MedvllmError(f"--json-schema: {path} must hold a JSON object, got {type(schema).__name__}")
    return schema


def run_generate(command: GenerateCommand) -> None:
    """The command: exits with 130 after Ctrl-C, what was written until then kept."""
    options = _seeded(command, _checked(command))
    _warn_of_conflicts(command, options)
    from medvllm.cli.inference_commands import check_model, read_input

    if command.prompts_file is not None:
        from medvllm.cli._generate_many import run_many

        check_model(command.model, "generation")
        run_many(replace(command, model=local_model(command.model)), options)
        return
    prompt = read_input(
        command.text,
        Path(command.source) if command.source else None,
        input_format="auto",
        encoding=command.encoding,
    )
    _check_output(command)
    check_model(command.model, "generation")
    generator = load(replace(command, model=local_model(command.model)), options)
    with profiled(command) as profile, _stream(command, options) as show:
        try:
            result = generator.generate(prompt, options, report=command.json_meta, on_text=show)
            interrupted = False
        except KeyboardInterrupt as error:
            partial = getattr(error, "result", None)
            if partial is None:
                raise
            result, interrupted = partial, True
    _emit(command, result, profile, shown=show is not None)
    if interrupted:
        click.echo("Error: interrupted; the text so far is kept", err=True)
        sys.exit(130)


def load(command: GenerateCommand, options: GenerationOptions) -> TextGenerator:
    """The generator with its model loaded; what loading warns of becomes a line each."""
    from medvllm.tasks.text_generator import TextGenerator

    if sys.stderr.isatty() and not command.json_meta:
        click.echo(f"Loading {one_line(command.model)} …", err=True)
    with warnings_as_lines():
        try:
            generator = TextGenerator(command.model, **command.engine_options(options))
        except MedvllmError as error:
            near = _near_names(command.model)
            if not near or str(error).endswith("?"):
                raise
            raise MedvllmError(f"{error}; did you mean {' or '.join(near)}?") from error
    device = generator.llm.stats().device.partition(":")[0]
    if command.memory_pooling is not False and command.pool_device not in (None, "auto", device):
        warn(
            f"--pool-device {command.pool_device} was requested, but the model runs on {device}; the pool is there too"
        )
    return generator


def _near_names(name: str) -> list[str]:
    """Registered names of generators much like one that is neither registered nor there."""
    import difflib

    from medvllm.cli.model_commands import open_registry

    with open_registry() as registry:
        if registry.find(name) is not None or Path(name).exists():
            return []
        names = [entry.name for entry in registry.entries() if "generation" in entry.tasks]
    return difflib.get_close_matches(name, names, n=2, cutoff=0.6)


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Prints our own warnings as one line each at once; other libraries' stay as they are."""
    import warnings

    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_rest: Any, **_more: Any) -> None:
        text = str(message)
        if text not in said:
            said.add(text)
            warn(text)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.showwarning = show
        yield


def _checked(command: GenerateCommand) -> GenerationOptions:
    """The options, or wrong usage (exit 2) that names the flags."""
    given = [name for name in ("text", "source", "prompts_file") if getattr(command, name) is not None]
    if len(given) > 1:
        flags = [{"source": "--input"}.get(name, _flag(name)) for name in given]
        raise click.UsageError(f"{' and '.join(flags)} exclude each other; give one")
    if command.source == "" or str(command.output) == ".":
        raise click.UsageError("a file's name is empty")
    if command.restart and command.prompts_file is None:
        raise click.UsageError("--restart is for --prompts-file; this is one text")
    for source in (command.source, command.prompts_file):
        if source and command.output and os.path.realpath(source) == os.path.realpath(command.output):
            raise click.UsageError(f"{source} is the input and the output; choose another --output")
    # A file that can't be read fails, it is no wrong usage. It is read once: it may be a pipe.
    schema = None if command.json_schema is None else read_schema(command.json_schema)
    try:
        return command.generation_options(schema)
    except MedvllmError as error:
        raise click.UsageError(flags_named(str(error))) from None


def _seeded(command: GenerateCommand, options: GenerationOptions) -> GenerationOptions:
    """With a seed of its own for one sampled text, so that the metadata say how to get it again."""
    if options.seed is not None or options.in_force["strategy"] != "sampling" or command.prompts_file is not None:
        return options
    return replace(options, seed=secrets.randbelow(2**31))


def _flag(name: str) -> str:
    return "-n" if name == "n" else f"--{name.replace('_', '-')}"


def _warn_of_conflicts(command: GenerateCommand, options: GenerationOptions) -> None:
    """Options that contradict each other or have no effect are said, and the run goes on."""
    if command.attention_impl == "flash" and command.flash_attention is False:
        warn("--attention-impl flash conflicts with --no-flash-attention; FlashAttention is disabled")
    pool = [_flag(name) for name in ("pool_max_bytes", "pool_device") if getattr(command, name) is not None]
    if command.memory_pooling is False and pool:
        warn(f"{' and '.join(pool)} ignored: --no-memory-pooling turns the pool off")
    if command.compile_mode is not None and not command.compile_model:
        warn("--compile-mode ignored: --compile is not given")
    strategy = options.in_force["strategy"]
    for name in options.ignored:
        warn(f"{_flag(name)} ignored: --strategy {strategy} has no use for it")
    if command.json_schema is not None and not command.no_disclaimer:
        warn("no disclaimer is added, for the text is JSON; it is not for clinical use")


def _check_output(command: GenerateCommand) -> None:
    """Fails before minutes of work where the output can't be written after them."""
    if command.output is None:
        return
    path = Path(os.path.realpath(command.output))
    if path.is_dir():
        raise MedvllmError(f"{command.output} is a folder; --output needs a file")
    if not path.parent.is_dir():
        raise MedvllmError(f"there is no folder {path.parent}; make it first")
    if not os.access(path.parent if not path.exists() else path, os.W_OK):
        raise MedvllmError(f"{command.output} can't be written; check its permissions, or choose another --output")


@contextlib.contextmanager
def profiled(command: GenerateCommand) -> Iterator[dict[str, Any]]:
    """Profiles the block where asked; the dict holds the results after it, also when the block is interrupted."""
    results: dict[str, Any] = {}
    if not (command.profile or command.emit_trace):
        yield results
        return
    from medvllm.utils.profiler import get_profiler

    device = command.device if command.profiler_device == "auto" else command.profiler_device
    profiler = get_profiler(
        device, emit_trace=command.emit_trace, trace_dir=command.trace_dir if command.emit_trace else None
    )
    with profiler.profile():
        yield results
    results.update(profiler.results)


class _Shower:
    """Writes text to the terminal as it comes."""

    def __init__(self) -> None:
        self.any = False

    def __call__(self, piece: str) -> None:
        from medvllm.tasks.formats.plain import strip_controls

        self.any = True
        click.echo(strip_controls(piece), nl=False)
        sys.stdout.flush()


@contextlib.contextmanager
def _stream(command: GenerateCommand, options: GenerationOptions) -> Iterator[_Shower | None]:
    """What shows the text while it is written: on a terminal, of one text; else None."""
    alone = options.n == 1 and options.in_force["strategy"] != "beam"
    with warnings_as_lines():
        yield _Shower() if alone and command.output is None and sys.stdout.isatty() else None


def _emit(command: GenerateCommand, result: GenerationResult, profile: dict[str, Any], *, shown: bool) -> None:
    """Prints or writes the text (already on the terminal where `shown`), then the metadata."""
    text = joined(result)
    metadata = dict(result.metadata)
    if profile:
        metadata["profile"] = profile
        if not command.json_meta:
            click.echo(profile_line(profile), err=True)
    if command.output is not None:
        write_output(command.output, text + "\n")
    elif shown:
        click.echo()
    else:
        from medvllm.tasks.formats.plain import strip_controls

        click.echo(strip_controls(text) if sys.stdout.isatty() else text)
    if command.json_meta:
        rendered = json.dumps(metadata, indent=2, ensure_ascii=False)
        click.echo(rendered)
        if command.output is not None:
            write_output(f"{command.output}.meta.json", rendered + "\n")


def joined(result: GenerationResult) -> str:
    """The text, or several with a line before each that counts them."""
    if len(result.outputs) == 1:
        return result.text
    total = len(result.outputs)
    return "\n\n".join(f"--- {number} of {total} ---\n{one.text}" for number, one in enumerate(result.outputs, 1))


def profile_line(profile: dict[str, Any]) -> str:
    """One line for a person."""

    def milliseconds(name: str) -> str:
        value = profile[name]
        return f"{value:.0f} ms" if value is not None else "not measured"

    parts = [f"wall {milliseconds('wall_time_ms')}", f"cpu {milliseconds('cpu_time_ms')}"]
    if profile["gpu_time_ms"] is not None:
        parts.append(f"gpu {milliseconds('gpu_time_ms')}")
    peak = profile["memory"]["peak_rss_mib"]
    if peak is not None:
        parts.append(f"peak {peak:.0f} MiB")
    trace = f"; trace {profile['trace_path']}" if profile["trace_path"] else ""
    return f"Profile: {', '.join(parts)}{trace}"
