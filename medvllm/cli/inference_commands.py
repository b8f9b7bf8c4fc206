"""`medvllm inference`: run a task on a text, a file, stdin, or many files."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medvllm.cli._click import complete_model, need, taken, unless, write_output
from medvllm.cli._encoder_options import NERModelFlags, encoder_options, ner_model, ner_model_options
from medvllm.cli._generate_options import engine_options, generation_options, input_options, run_options
from medvllm.errors import MedvllmError
from medvllm_programs.commands import CONTEXT, LazyGroup, warn

if TYPE_CHECKING:
    from medvllm.tasks.batch import NEROptions

__all__ = ["check_model", "cmd_classification", "cmd_generate", "cmd_ner", "inference", "read_input"]

LARGE_FILE_BYTES = 2_000_000
LARGE_STDIN_CHARACTERS = 20_000
FORMATS = ("table", "json", "jsonl", "csv", "fhir", "html")


@click.group(cls=LazyGroup, context_settings=CONTEXT)
def inference() -> None:
    """Run inference: named entities with ontology links, text generation, text classification."""


def read_input(text: str | None, path: Path | None, *, input_format: str = "auto", encoding: str | None = None) -> str:
    """The text of --text, of --input, or of a pipe.

    Raises:
        click.UsageError: no input was given.
        MedvllmError: the input can't be read or is empty.
    """
    from medvllm.utils.documents import read_note, text_of

    if text is not None:
        if not text.strip():
            raise MedvllmError("--text is empty; give some text")
        return text
    if path is not None and str(path) != "-":
        if path.is_file() and path.stat().st_size > LARGE_FILE_BYTES:
            warn(f"{path} is {path.stat().st_size / 1e6:.1f} MB; processing may be slow")
        return read_note(path, input_format=input_format, encoding=encoding)
    if path is None and sys.stdin.isatty():
        raise click.UsageError("no input: give --text, --input, or pipe a text in")
    piped = text_of(sys.stdin.buffer.read(), "stdin", input_format=input_format, encoding=encoding)
    if len(piped) > LARGE_STDIN_CHARACTERS:
        warn(f"stdin is {len(piped):,} characters; consider a smaller excerpt, or --input FILE")
    return piped


def _complete_ontology(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    from medvllm.ontology.store import VOCABULARIES

    return [name for name in VOCABULARIES if name.startswith(incomplete.upper())]


def _known_ontology(name: str, stores: tuple[str, ...]) -> None:
    """Raises wrong usage where the built-in vocabularies and those of the user's stores have none of that name."""
    from medvllm.ontology.store import OntologyStore, resolve_vocabulary

    try:
        resolve_vocabulary(name)
    except MedvllmError:
        store = OntologyStore.open(user=stores)  # its names are read only where they can matter
        try:
            store.resolve(name)
        except MedvllmError as error:
            raise click.BadParameter(str(error), param_hint="--ontology") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class NotesFlags:
    """How notes are read, and what comes of them written; `run_batch`'s arguments."""

    fmt: str | None
    input_format: str
    encoding: str | None
    output: Path | None
    workers: int | None
    engine: str
    restart: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NERCommand:
    """The command line of `inference ner`; `asked` is yet without the user's stores."""

    text: str | None
    inputs: tuple[str, ...]
    ontology_file: Path | None
    highlight: bool
    notes: NotesFlags
    asked: NEROptions


@inference.command("ner", context_settings={"allow_extra_args": True})
@click.option("--text", help="The text, inline.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    type=click.Path(readable=False),
    metavar="FILE",
    help="A file; also a folder, a glob, or several (repeat), or - for stdin.",
)
@click.option(
    "--input-format",
    type=click.Choice(["auto", "text", "pdf", "jsonl"]),
    default="auto",
    show_default=True,
    help='auto: by extension; jsonl: {"id", "text"} a line.',
)
@click.option("--encoding", help="Encoding of text input  [default: UTF-8, or by its byte order mark]")
@click.option(
    "--model",
    metavar="NAME",
    help="A token-classification model: registered name, folder, hub id or art:// reference.",
    shell_complete=complete_model,
)
@ner_model_options
@click.option(
    "--ontology",
    default="UMLS",
    show_default=True,
    help="Vocabulary of the links; see 'medvllm ontology list'.",
    shell_complete=_complete_ontology,
)
@click.option("--strict-ontology", is_flag=True, help="Only codes of that vocabulary, never another's.")
@click.option(
    "--ontology-file",
    type=click.Path(path_type=Path),
    help="A CSV of your own terms for this run (term,code,vocabulary).",
)
@unless("--no-link", "link", help="Leave out ontology links.")
@click.option("--fast", is_flag=True, help="Dictionary matches only: no sequence model, no values, no doses.")
@click.option("--nested", is_flag=True, help="Also entities inside other entities.")
@click.option(
    "--format",
    "fmt",
    type=click.Choice(FORMATS),
    help="Output format  [default: table; jsonl for many files]",
)
@click.option("--json-out", is_flag=True, help="The same as --format json.")
@click.option("--highlight", is_flag=True, help="Show the text with its entities marked.")
@click.option("--output", type=click.Path(path_type=Path), help="Write to FILE instead of the terminal.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes for many files  [default: one a core]")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where many files are processed.",
)
@click.option("--restart", is_flag=True, help="Many files: start again instead of going on after an interruption.")
def cmd_ner(**given: Any) -> None:
    """Find conditions, medications, tests … in a text, and link them to ontology codes.

    \b
    medvllm inference ner --text "Patient with HTN and DM."
    cat note.txt | medvllm inference ner --json-out
    medvllm inference ner --input notes/ --output found.jsonl

    Not for clinical use. No text leaves this machine.
    """
    if further := click.get_current_context().args:
        raise click.UsageError(f"what is '{further[0]}' for? Quote a glob, and give each file its own --input")
    command = _checked(given)
    inputs, notes = command.inputs, command.notes
    from medvllm.ontology.user_stores import user_stores
    from medvllm.tasks.batch import is_batch

    with contextlib.ExitStack() as stack:
        own = (stack.enter_context(_store_of_file(command.ontology_file)),) if command.ontology_file else ()
        options = replace(command.asked, user_stores=(*own, *user_stores()))
        _known_ontology(options.ontology, options.user_stores)
        digest = None
        if command.text is None and notes.input_format == "jsonl" and inputs in ((), ("-",)):
            spooled, digest = stack.enter_context(_spooled_stdin())
            inputs = (spooled,)
        if command.text is not None or not is_batch(inputs, notes.input_format):
            _ner_one(command, options)
            return
        from medvllm.cli._batch import run_batch

        if command.highlight:
            raise click.UsageError("--highlight shows one text; give one file")
        run_batch(inputs, options, **asdict(notes), digest=digest)


def _checked(given: dict[str, Any]) -> NERCommand:
    """The command line of `inference ner` by its parts, or wrong usage (exit 2)."""
    from medvllm.tasks.batch import NEROptions

    name, json_out = given.pop("model"), given.pop("json_out")
    notes = NotesFlags(**taken(given, NotesFlags.__slots__))
    asked = NEROptions(**taken(given, ("ontology", "strict_ontology", "link", "fast", "nested")))
    flags = NERModelFlags(**taken(given, NERModelFlags.__slots__))
    command = NERCommand(**given, notes=notes, asked=asked)
    if command.text is not None and command.inputs:
        raise click.UsageError("--text and --input exclude each other; give one")
    if json_out and notes.fmt not in (None, "json"):
        raise click.UsageError(f"--json-out is --format json, but --format {notes.fmt} is given; give one")
    if "" in command.inputs or str(notes.output) == ".":
        raise click.UsageError("a file's name is empty")
    if command.highlight and (notes.fmt or json_out):
        raise click.UsageError("--highlight is a format of its own; give it without --format and --json-out")
    if name is not None and (asked.fast or asked.nested):
        raise click.UsageError("--fast and --nested are of the processor-only mode; leave them out with --model")
    asked = replace(asked, model=ner_model(name, flags))
    return replace(command, asked=asked, notes=replace(notes, fmt="json") if json_out else notes)


@contextlib.contextmanager
def _spooled_stdin() -> Iterator[tuple[str, str]]:
    """A file with what is piped in, as work on many notes is handed out by place in a file; and its SHA-256."""
    import hashlib
    import tempfile

    with tempfile.TemporaryDirectory(prefix="medvllm-") as folder:
        digest = hashlib.sha256()
        with open(Path(folder, "stdin"), "wb") as file:
            while block := sys.stdin.buffer.read(1 << 20):
                digest.update(block)
                file.write(block)
        yield file.name, digest.hexdigest()


@contextlib.contextmanager
def _store_of_file(path: Path) -> Iterator[str]:
    """A store made from a CSV of terms for one run; its folder."""
    import tempfile

    from medvllm.ontology.importer import import_csv

    with tempfile.TemporaryDirectory(prefix="medvllm-") as folder:
        import_csv(path, Path(folder, "store"))
        yield str(Path(folder, "store"))


def _ner_one(command: NERCommand, options: NEROptions) -> None:
    notes, output = command.notes, command.notes.output
    if notes.workers or notes.engine != "local" or notes.restart:
        raise click.UsageError("--workers, --engine and --restart are for many files; this is one text")
    source = Path(command.inputs[0]) if command.inputs else None
    note = read_input(command.text, source, input_format=notes.input_format, encoding=notes.encoding)
    if output and source and output.exists() and source.exists() and output.samefile(source):
        raise click.UsageError(f"{source} is the input and the output; choose another --output")
    processor = options.processor()
    for remark in processor.remarks:
        warn(remark)
    document = processor.document(str(source or "text"), note)
    if command.highlight:
        color = output is None and _color_wanted()
        rendered = processor.highlight_entities(note, document.entities, color=color)
    else:
        from medvllm.tasks.formats import render

        fmt, width = notes.fmt or "table", None
        if fmt == "table" and output is None and sys.stdout.isatty():
            import shutil

            width = shutil.get_terminal_size().columns
        rendered = render([document], fmt, width=width)
    if output is None:
        click.echo(rendered)
    else:
        write_output(output, rendered + "\n")


def _color_wanted() -> bool:
    import os

    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def check_model(name: str, task: str) -> None:
    """Fails when the registry says that the model can't do the task; an unregistered one is only warned of."""
    from medvllm.cli.model_commands import open_registry

    with open_registry() as registry:
        entry = registry.find(name)
    if entry is None:
        warn(f"Model '{name}' is not registered; skipping task validation")
    elif task not in entry.tasks:
        raise MedvllmError(f"Model '{name}' does not support task '{task}'")


@inference.command("generate")
@input_options
@generation_options
@run_options
@engine_options
def cmd_generate(**given: Any) -> None:
    """Write a text with a language model, and report what was asked of it and what came.

    \b
    medvllm inference generate --text "Explain hypertension to a patient." \\
      --model smollm2-135m-instruct --purpose patient --readability general --target-words 120 --json-meta
    cat question.txt | medvllm inference generate --model ./my-model --strategy sampling --temperature 0.7
    medvllm inference generate --prompts-file prompts.jsonl --output texts.jsonl --model ./model.gguf

    Not for clinical use. No text leaves this machine.
    """
    from medvllm.cli._generate import run_generate

    run_generate(given)


@inference.command("classification")
@click.option("--text", help="The text, inline.")
@click.option("--input", "source", type=click.Path(path_type=Path), metavar="FILE", help="A file, or - for stdin.")
@click.option("--encoding", help="Encoding of text input  [default: UTF-8, or by its byte order mark]")
@click.option(
    "--model",
    default="distilbert-base-uncased-finetuned-sst-2-english",
    show_default=True,
    metavar="NAME",
    help="A sequence-classification model: registered name, folder, hub id or art:// reference.",
    shell_complete=complete_model,
)
@click.option("--top-k", type=click.IntRange(min=1), metavar="N", help="Also the N highest scores.")
@click.option("--all-scores", is_flag=True, help="Also the scores of all labels.")
@click.option("--json-out", is_flag=True, help="Print JSON.")
@click.option("--output", type=click.Path(path_type=Path), help="Write JSON to FILE instead of the terminal.")
@encoder_options
def cmd_classification(
    text: str | None,
    source: Path | None,
    encoding: str | None,
    model: str,
    top_k: int | None,
    all_scores: bool,
    json_out: bool,
    output: Path | None,
    device: str | None,
    dtype: str | None,
    batch_size: int | None,
    allow_pickle: bool,
    trust_remote_code: bool,
) -> None:
    """Give a text one of a model's labels.

    \b
    medvllm inference classification --text "The medication worked well." --json-out
    cat note.txt | medvllm inference classification --model ./my-classifier --all-scores

    A text longer than the model reads is read in windows. No text leaves this machine.
    """
    if text is not None and source is not None:
        raise click.UsageError("--text and --input exclude each other; give one")
    if top_k is not None and all_scores:
        raise click.UsageError("--top-k and --all-scores exclude each other; give one")
    check_model(model, "classification")
    need("classification", "torch", "transformers")
    note = read_input(text, source, encoding=encoding)
    from medvllm.cli._classify import run_classification

    run_classification(
        note,
        model=model,
        top=10**6 if all_scores else top_k,
        json_out=json_out,
        output=output,
        device=device or "auto",
        dtype=dtype or "auto",
        batch_size=batch_size or 16,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )
