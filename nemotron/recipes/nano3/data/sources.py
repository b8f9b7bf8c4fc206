"""The documents that data prep reads: text files in folders, each once, in an order that only their content decides."""

from __future__ import annotations

import hashlib
import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nemotron.kit.errors import KitError

__all__ = ["Corpus", "Document", "Split", "corpora", "documents", "read_text", "split_of"]

Split = Literal["train", "valid", "test"]


@dataclass(frozen=True, slots=True)
class Corpus:
    """A folder of text files. `weight` is its share of the training tokens; None: the share it has."""

    name: str
    folder: Path
    patterns: tuple[str, ...]
    weight: float | None = None
    skip: tuple[str, ...] = ()  # names of folders


@dataclass(frozen=True, slots=True)
class Document:
    """A file: its path in the corpus, size in bytes and SHA-256."""

    path: str
    size: int
    sha256: str


def corpora(blend_path: Path | None) -> list[Corpus]:
    """The corpora of a blend file; without one, the sources of Python's standard library.

    ```json
    {"datasets": [{"name": "notes", "path": "notes/", "pattern": ["*.txt", "*.md"], "weight": 0.7}]}
    ```
    A relative path is relative to the blend file; `pattern` is `*.txt` and `weight` the corpus's own share where they
    are left out. One entry's weight needs all the others'.

    Raises:
        KitError: there is no such file, it does not look so, or a folder is missing.
    """
    if blend_path is None:
        library = Path(sysconfig.get_path("stdlib"))
        return [Corpus("stdlib", library, ("*.py",), skip=("site-packages", "dist-packages"))]
    try:
        entries = json.loads(blend_path.read_text(encoding="utf-8"))["datasets"]
        found = [_corpus(entry, blend_path.parent) for entry in entries]
    except FileNotFoundError as error:
        raise KitError(
            f"no blend file {blend_path}; write one, or leave blend_path out for the default text"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise KitError(
            f'{blend_path} must look like {{"datasets": [{{"name": "notes", "path": "notes/", "pattern": "*.txt"}}]}} '
            f"({type(error).__name__}: {error})"
        ) from error
    names = [corpus.name for corpus in found]
    if not found or len(set(names)) != len(names):
        raise KitError(f"{blend_path} must name at least one dataset, and each by another name; got {names}")
    if len({corpus.weight is None for corpus in found}) == 2:
        raise KitError(f"{blend_path} gives a weight to some datasets only; give one to all or to none")
    return found


def _corpus(entry: dict[str, object], base: Path) -> Corpus:
    folder = base / str(entry["path"])
    if not folder.is_dir():
        raise KitError(f"the dataset {entry['name']!r} has no folder {folder}; correct its path")
    pattern = entry.get("pattern", "*.txt")
    patterns = tuple(map(str, pattern)) if isinstance(pattern, list) else (str(pattern),)
    weight = entry.get("weight")
    return Corpus(str(entry["name"]), folder, patterns, float(str(weight)) if weight is not None else None)


def documents(corpus: Corpus, *, sample: int | None) -> list[Document]:
    """The files of a corpus in UTF-8, one of each content; the first `sample` of them, in the order of their SHA-256
    read backwards: its first digits say the split, and a sample by those would be of one split."""
    found: dict[str, Document] = {}
    for path in _files(corpus):
        data = path.read_bytes()
        if not data.strip() or not _is_utf8(data):
            continue
        digest = hashlib.sha256(data).hexdigest()
        found.setdefault(digest, Document(path.relative_to(corpus.folder).as_posix(), len(data), digest))
    ordered = [found[digest] for digest in sorted(found, key=lambda digest: digest[::-1])]
    if not ordered:
        raise KitError(f"no text in {corpus.folder}: no file like {', '.join(corpus.patterns)} in UTF-8; see `pattern`")
    return ordered[:sample]


def _files(corpus: Corpus) -> Iterator[Path]:
    paths = {path for pattern in corpus.patterns for path in corpus.folder.rglob(pattern) if path.is_file()}
    for path in sorted(paths):
        if not any(part in corpus.skip for part in path.relative_to(corpus.folder).parts[:-1]):
            yield path


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def split_of(document: Document, *, valid_fraction: float, test_fraction: float) -> Split:
    """The split of a document by its content: the same one in every step that reads it."""
    place = int(document.sha256[:12], 16) / 16**12
    if place < valid_fraction:
        return "valid"
    return "test" if place < valid_fraction + test_fraction else "train"


def read_text(corpus: Corpus, document: Document) -> str:
    """The document's text.

    Raises:
        KitError: the file is no longer what the plan saw.
    """
    try:
        data = (corpus.folder / document.path).read_bytes()
    except FileNotFoundError as error:
        raise KitError(f"{corpus.folder / document.path} is gone since data prep began; run it again") from error
    if hashlib.sha256(data).hexdigest() != document.sha256:
        raise KitError(f"{corpus.folder / document.path} changed since data prep began; run it again")
    return data.decode("utf-8")
