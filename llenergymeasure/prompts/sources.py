"""Which prompts an experiment runs: chosen by the configuration, taken from their source, counted and hashed."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llenergymeasure.config.models import Dataset, ExperimentConfig, FilePrompts, HubPrompts
from llenergymeasure.errors import LemError
from llenergymeasure.prompts.aliases import ALIASES, BUILTIN, DEFAULT
from llenergymeasure.prompts.tables import FILE_SUFFIXES, Table, open_local, read_lines
from llenergymeasure.results.schema import PromptSource
from medvllm_programs.files import shown

__all__ = ["COLUMNS", "Prompt", "PromptSet", "load_prompts", "prompts_sha256"]

COLUMNS = ("text", "prompt", "question", "instruction", "input", "content")  # tried in this order
_CONVERSATIONS = ("conversations", "messages")  # then these
_HUMAN = ("human", "user")
_BUILTIN_FILE = Path(__file__).parent / "data" / "builtin.jsonl"


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    """One request's text; `id` is its place in the input, the same in every run of it."""

    id: str
    index: int
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class PromptSet:
    """The prompts of an experiment in their order, where they came from, and what the user should know of it."""

    prompts: tuple[Prompt, ...]
    source: PromptSource
    warnings: tuple[str, ...] = ()


def load_prompts(
    config: ExperimentConfig,
    *,
    dataset: str | None = None,
    prompts_file: str | Path | None = None,
    sample_size: int | None = None,
    split: str | None = None,
    column: str | None = None,
) -> PromptSet:
    """The prompts that a configuration asks for; options given here go before it.

    In this order: `dataset`, `prompts_file`, config.dataset, config.prompts, ai-energy-score.

    Raises:
        LemError: the source can't be read, holds no prompts, or has no such column or split.
    """
    source = _choose(config, dataset, prompts_file)
    limits = (sample_size,) if sample_size else (source.sample_size, config.num_input_prompts)
    limit = min((each for each in limits if each is not None), default=None)
    if isinstance(source, FilePrompts):
        if split or column:
            raise LemError("a prompts file has no split or column; name a data set with --dataset")
        path = Path(source.path).expanduser()
        texts = [text for _, text in read_lines(path)]
        return _prompt_set(texts, Table(shown(path), [], lambda _: iter(()), len(texts)), None, source, limit)
    name = source.name if isinstance(source, Dataset) else source.dataset
    subset = source.subset if isinstance(source, HubPrompts) else None
    split, column = split or source.split, column or source.column
    table = _open(name, subset=subset, split=split)
    if column is None and name in ALIASES and ALIASES[name].column in table.columns:
        column = ALIASES[name].column
    column = _column(table, column)
    shuffled = isinstance(source, HubPrompts) and source.shuffle
    texts, skipped = _texts(table, column, None if shuffled else limit)
    found = _prompt_set(texts, table, column, source, limit)
    if skipped:
        left_out = f"{skipped} row(s) of {table.name} have no text in column {column} and were left out"
        found = dataclasses.replace(found, warnings=(*found.warnings, left_out))
    return found


def _choose(
    config: ExperimentConfig, dataset: str | None, prompts_file: str | Path | None
) -> Dataset | FilePrompts | HubPrompts:
    if dataset is not None:
        return Dataset(name=dataset)
    if prompts_file is not None:
        return FilePrompts(type="file", path=str(prompts_file))
    return config.dataset or config.prompts or Dataset(name=DEFAULT)


def _open(name: str, *, subset: str | None, split: str | None) -> Table:
    """The table behind an alias, a local path, or a name on the hub."""
    alias = ALIASES.get(name)
    if name == BUILTIN:
        table = open_local(_BUILTIN_FILE, split=split)
        return dataclasses.replace(table, name=BUILTIN)
    if alias is None:
        path = Path(name).expanduser()
        if path.exists():
            return open_local(path, split=split)
        if name.startswith((".", "/", "~")) or path.suffix.lower() in FILE_SUFFIXES:
            raise LemError(f"there is no file or folder {name}; --dataset takes one of {', '.join(ALIASES)}, or a path")
    from llenergymeasure.prompts.hub import open_hub

    if alias is None:
        return open_hub(name, subset=subset, split=split)
    table = open_hub(alias.path, subset=subset or alias.subset, split=split or alias.split, file=alias.file)
    return dataclasses.replace(table, name=f"{name} ({table.name})")


def _column(table: Table, wanted: str | None) -> str:
    """The column that holds the prompts: the one asked for, else the first known name that is there."""
    if wanted is not None and wanted in table.columns:
        return wanted
    shown_columns = ", ".join(table.columns[:12]) + (", …" if len(table.columns) > 12 else "")
    if wanted is not None:
        raise LemError(f"{table.name} has no column {wanted!r}; there are: {shown_columns}")
    for name in (*COLUMNS, *_CONVERSATIONS):
        if name in table.columns:
            return name
    tried = ", ".join(COLUMNS)
    raise LemError(f"{table.name} has none of the columns {tried}; name one with --column: {shown_columns}")


def _texts(table: Table, column: str, limit: int | None) -> tuple[list[str], int]:
    """(texts of a column up to the limit, rows without text)."""
    texts: list[str] = []
    skipped = 0
    for value in table.values(column):
        if limit is not None and len(texts) == limit:
            break
        text = _text(value, table, column)
        if text.strip():
            texts.append(_checked(text, table, column))
        else:
            skipped += 1
    return texts, skipped


def _checked(text: str, table: Table, column: str) -> str:
    """JSON can hold half of a surrogate pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        place = f"character {error.start + 1} of a text in column {column}"
        raise LemError(f"{table.name}: {place} is half of a surrogate pair; mend it") from error
    return text


def _text(value: object, table: Table, column: str) -> str:
    """A cell as a prompt: text as it is, a conversation as its first human turn."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(turn, Mapping) for turn in value):
        return _first_human_turn(value)
    kind = type(value).__name__
    raise LemError(f"column {column} of {table.name} holds {kind}, expected text; name another with --column")


def _first_human_turn(turns: Iterable[Mapping[str, Any]]) -> str:
    for turn in turns:
        if turn.get("from", turn.get("role")) in _HUMAN:
            said = turn.get("value", turn.get("content"))
            return said if isinstance(said, str) else ""
    return ""


def _prompt_set(
    texts: list[str],
    table: Table,
    column: str | None,
    source: Dataset | FilePrompts | HubPrompts,
    limit: int | None,
) -> PromptSet:
    if not texts:
        raise LemError(f"{table.name} holds no prompts" + (f" in column {column}" if column else ""))
    if not isinstance(source, Dataset) and source.shuffle:
        random.Random(source.seed).shuffle(texts)
    texts = texts[:limit]
    warnings = []
    if limit is None and not isinstance(source, FilePrompts):
        part = f"split {table.split} of {table.name}" if table.split else table.name
        warnings.append(f"no --sample-size: all {len(texts)} prompts of {part} are run; limit them with -n")
    if limit is not None and len(texts) < limit:
        warnings.append(f"asked for {limit} prompts, {table.name} has {len(texts)}")
    described = PromptSource(
        name=table.name,
        revision=table.revision,
        split=table.split,
        column=column,
        requests=len(texts),
        available=table.total,
        sha256=prompts_sha256(texts),
    )
    prompts = tuple(Prompt(f"{index:06d}", index, text) for index, text in enumerate(texts))
    return PromptSet(prompts, described, tuple(warnings))


def prompts_sha256(texts: Iterable[str]) -> str:
    """SHA-256 over prompts in their order: of each its length in bytes, a newline, and its UTF-8."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(f"{len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()
