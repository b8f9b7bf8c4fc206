"""`inference generate`: check what was asked, load the model, print the text and its metadata."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medvllm.cli._artifacts import local_model
from medvllm.cli._click import flags_named, taken, write_output
from medvllm.errors import MedvllmError
from medvllm.tasks.generation.options import GenerationOptions, Style
from medvllm.tasks.generation.styles import STYLES
from medvllm_programs.commands import one_line, warn

if TYPE_CHECKING:
    from medvllm.tasks.generation.result import GenerationResult
    from medvllm.tasks.text_generator import TextGenerator

__all__ = ["GenerateCommand", "load", "profile_line", "profiled", "run_generate", "warnings_as_lines"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFlags:
    """The options of the engine as given."""

    device: str
    dtype: str
    quantization: str | None
    threads: int | None
    max_model_len: int | None
    kv_cache_bytes: int | None
    deterministic: bool
    allow_pickle: bool
    attention_impl: str
    flash_attention: bool | None
    memory_pooling: bool
    pool_max_bytes: int | None
    pool_device: str | None
    compile_model: bool
    compile_mode: str | None

    def arguments(self) -> dict[str, Any]:
        """The arguments of `medvllm.LLM`, without those that another option leaves without effect."""
        arguments = asdict(self)
        compiled = arguments.pop("compile_model")
        return arguments | {
            "pool_max_bytes": self.pool_max_bytes if self.memory_pooling else None,
            "pool_device": "auto",  # the model's device, the one place where a pool can be
            "compile_mode": (self.compile_mode or "default") if compiled else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateCommand:
    """The command line as given, but for what is asked of the text: each field is the option of its name."""

    model: str
    text: str | None
    source: str | None
    encoding: str | None
    prompts_file: Path | None
    restart: bool
    json_meta: bool
    output: Path | None
    profile: bool
    profiler_device: str
    emit_trace: bool
    trace_dir: Path
    engine: EngineFlags


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


def run_generate(given: dict[str, Any]) -> None:
    """The command of these options: exits with 130 after Ctrl-C, what was written until then kept."""
    command, options = _checked(given)
    _warn_of_conflicts(command.engine, options)
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
    options = _seeded(options)
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
    arguments = command.engine.arguments()
    arguments["seed"] = secrets.randbelow(2**31) if options.seed is None else options.seed
    if command.prompts_file is None:  # the cache is made for the texts of the one prompt alone
        arguments["max_num_seqs"] = max(options.n, options.in_force["beam_width"] or 1)
    with warnings_as_lines():
        try:
            generator = TextGenerator(command.model, **arguments)
        except MedvllmError as error:
            near = _near_names(command.model)
            if not near or str(error).endswith("?"):
                raise
            raise MedvllmError(f"{error}; did you mean {' or '.join(near)}?") from error
    device = generator.llm.stats().device.partition(":")[0]
    asked = command.engine.pool_device
    if command.engine.memory_pooling and asked not in (None, "auto", device):
        warn(f"--pool-device {asked} was requested, but the model runs on {device}; the pool is there too")
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


def _checked(given: dict[str, Any]) -> tuple[GenerateCommand, GenerationOptions]:
    """The command line and what it asks of the text, or wrong usage (exit 2) that names the flags."""
    schema_file, style = given.pop("json_schema"), taken(given, STYLES)
    asked = taken(given, set(GenerationOptions.__slots__) - {"json_schema", "style"})
    engine = EngineFlags(**taken(given, EngineFlags.__slots__))
    command = GenerateCommand(**given, engine=engine)
    _check_files(command)
    # A file that can't be read fails, it is no wrong usage. It is read once: it may be a pipe.
    schema = None if schema_file is None else read_schema(schema_file)
    try:
        return command, GenerationOptions(**asked, style=Style(**style), json_schema=schema)
    except MedvllmError as error:
        raise click.UsageError(flags_named(str(error))) from None


def _check_files(command: GenerateCommand) -> None:
    inputs = {"--text": command.text, "--input": command.source, "--prompts-file": command.prompts_file}
    flags = [flag for flag, value in inputs.items() if value is not None]
    if len(flags) > 1:
        raise click.UsageError(f"{' and '.join(flags)} exclude each other; give one")
    if command.source == "" or str(command.output) == ".":
        raise click.UsageError("a file's name is empty")
    if command.restart and command.prompts_file is None:
        raise click.UsageError("--restart is for --prompts-file; this is one text")
    for source in (command.source, command.prompts_file):
        if source and command.output and os.path.realpath(source) == os.path.realpath(command.output):
            raise click.UsageError(f"{source} is the input and the output; choose another --output")


def _seeded(options: GenerationOptions) -> GenerationOptions:
    """With a seed of its own for one sampled text, so that the metadata say how to get it again."""
    if options.seed is not None or options.in_force["strategy"] != "sampling":
        return options
    return replace(options, seed=secrets.randbelow(2**31))


def _warn_of_conflicts(engine: EngineFlags, options: GenerationOptions) -> None:
    """Options that contradict each other or have no effect are said, and the run goes on."""
    if engine.attention_impl == "flash" and engine.flash_attention is False:
        warn("--attention-impl flash conflicts with --no-flash-attention; FlashAttention is disabled")
    pool = {"--pool-max-bytes": engine.pool_max_bytes, "--pool-device": engine.pool_device}
    unused = [flag for flag, value in pool.items() if value is not None]
    if unused and not engine.memory_pooling:
        warn(f"{' and '.join(unused)} ignored: --no-memory-pooling turns the pool off")
    if engine.compile_mode is not None and not engine.compile_model:
        warn("--compile-mode ignored: --compile is not given")
    strategy = options.in_force["strategy"]
    for name in options.ignored:
        warn(f"--{name.replace('_', '-')} ignored: --strategy {strategy} has no use for it")
    if options.json_schema is not None and options.disclaimer:
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

    device = command.engine.device if command.profiler_device == "auto" else command.profiler_device
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
