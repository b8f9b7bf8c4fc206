"""Writing a store: `terms.bin` and `lookup.bin` (phrase tables) and `concepts.sqlite` (concepts, codes,
senses, meta).

terms.bin holds the phrases that are found in running text, lookup.bin those that are only looked up and
linked. The files are written beside their final place and renamed in, terms.bin last, so that a reader never
sees half a store. Row order, page size and the phrase order are fixed: the same content gives the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from medvllm_kernels.text import PhraseTableWriter

from medvllm.ontology.collect import Term
from medvllm.ontology.concepts import Concept
from medvllm.ontology.sources import CODE_PATTERNS, Vocabulary, Wheel
from medvllm.tasks.entities import ENTITY_TYPES

__all__ = [
    "CASED",
    "FORMAT_VERSION",
    "SCHEMA",
    "TERM_ID_MASK",
    "TYPE_SHIFT",
    "connect_for_writing",
    "write_store",
]

FORMAT_VERSION = 1
CASED = 1 << 31
TYPE_SHIFT = 27
TERM_ID_MASK = (1 << TYPE_SHIFT) - 1

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE vocabulary (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE concept (id INTEGER PRIMARY KEY, vocabulary INTEGER NOT NULL, code TEXT NOT NULL,
    type INTEGER NOT NULL, name TEXT NOT NULL);
CREATE TABLE code (concept INTEGER NOT NULL, vocabulary INTEGER NOT NULL, rank INTEGER NOT NULL,
    code TEXT NOT NULL, score INTEGER NOT NULL, name TEXT,
    PRIMARY KEY (concept, vocabulary, rank)) WITHOUT ROWID;
CREATE TABLE sense (term INTEGER NOT NULL, rank INTEGER NOT NULL, concept INTEGER NOT NULL,
    kind INTEGER NOT NULL, PRIMARY KEY (term, rank)) WITHOUT ROWID;
"""
# `code` holds only what `concept` does not already say: the concept's own code (vocabulary, code, name) is
# left out unless its title differs from the concept's name. `score` is in thousandths.
INDEXES = """
CREATE INDEX code_of ON code (code, vocabulary);
CREATE INDEX concept_of ON concept (code, vocabulary);
"""


def connect_for_writing(path: Path) -> sqlite3.Connection:
    """A new database file with the settings that make its bytes repeatable."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript("PRAGMA page_size=4096; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;")
    connection.executescript(SCHEMA)
    return connection


def write_store(
    output: Path,
    concepts: list[Concept],
    terms: dict[str, Term],
    vocabularies: tuple[Vocabulary, ...],
    wheels: tuple[Wheel, ...],
) -> dict[str, int]:
    """Write the three files into `output`; returns counts by name."""
    output.mkdir(parents=True, exist_ok=True)
    used = sorted({position for term in terms.values() for position in term.order})
    number = {position: index for index, position in enumerate(used)}
    senses, found = _write_tables(output, terms, number)
    names = list(CODE_PATTERNS)
    own, other = _code_rows([concepts[position] for position in used], names)
    digest = hashlib.sha256()
    for rows in (own, other, senses):
        digest.update("\n".join(map(repr, rows)).encode())
    for file in ("terms.bin.partial", "lookup.bin.partial"):
        digest.update((output / file).read_bytes())
    counts = {
        "concepts": len(used),
        "terms": len(terms),
        "terms found in text": found,
        "codes": len(own) + len(other),
    }
    for column, name in enumerate(names):
        codes = {row[2] for row in own if row[1] == column} | {row[3] for row in other if row[1] == column}
        counts[f"{name} codes"] = len(codes)
    meta = sorted(_meta(counts, vocabularies, wheels, digest.hexdigest()))
    tables: dict[str, Sequence[tuple[object, ...]]] = {
        "vocabulary": list(enumerate(names)),
        "concept": own,
        "code": other,
        "sense": senses,
        "meta": meta,
    }
    write_database(output / "concepts.sqlite.partial", tables)
    for file in ("concepts.sqlite", "lookup.bin", "terms.bin"):
        publish(output / f"{file}.partial", output / file)
    return counts


def _write_tables(
    output: Path, terms: dict[str, Term], number: dict[int, int]
) -> tuple[list[tuple[int, int, int, int]], int]:
    """Write the phrase tables; returns the rows of `sense` and how many phrases are found in text."""
    term_ids: dict[tuple[tuple[int, int], ...], int] = {}
    found = 0
    with (
        PhraseTableWriter(output / "terms.bin.partial") as in_text,
        PhraseTableWriter(output / "lookup.bin.partial") as lookup,
    ):
        for key in sorted(terms):
            term = terms[key]
            senses = tuple((number[position], term.kind(position)) for position in term.order[:8])
            payload = term_ids.setdefault(senses, len(term_ids) + 1)
            if term.type:
                found += 1
                payload |= 1 + ENTITY_TYPES.index(term.type) << TYPE_SHIFT
            if term.cased:
                payload |= CASED
            (in_text if term.type else lookup).add(key, payload)
    rows = [
        (term_id, rank, concept, kind)
        for senses, term_id in term_ids.items()
        for rank, (concept, kind) in enumerate(senses)
    ]
    return rows, found


def _code_rows(concepts: list[Concept], names: list[str]) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """Rows of `concept` and of `code`."""
    own: list[tuple[object, ...]] = []
    other: list[tuple[object, ...]] = []
    for index, concept in enumerate(concepts):
        home = concept.home
        type_code = 1 + ENTITY_TYPES.index(concept.type) if concept.type else 0
        own.append((index, names.index(home.vocabulary), home.code, type_code, concept.name))
        rows = []
        for rank, vocabulary, code, score, name in iter_codes(concept):
            if (vocabulary, code) != (home.vocabulary, home.code) or name != concept.name:
                title = None if name == concept.name else name
                rows.append((index, names.index(vocabulary), rank, code, round(score * 1000), title))
        other.extend(sorted(rows, key=lambda row: row[:3]))
    return own, other


def write_database(path: Path, tables: Mapping[str, Sequence[tuple[object, ...]]]) -> None:
    """A new database with these rows, in this order; the bytes depend on nothing but SQLite's version."""
    path.unlink(missing_ok=True)
    connection = connect_for_writing(path)
    connection.execute("BEGIN")
    for table, rows in tables.items():
        if rows:
            connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
    connection.execute("COMMIT")
    connection.executescript(INDEXES)
    connection.execute("VACUUM")
    connection.close()


def publish(partial: Path, final: Path) -> None:
    """fsync a finished file and rename it into place."""
    with open(partial, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, final)


def iter_codes(concept: Concept) -> Iterator[tuple[int, str, str, float, str | None]]:
    """(rank, vocabulary, code, score, title) of a concept's codes, at most four per vocabulary."""
    counts: dict[str, int] = {}
    for code in concept.codes:
        rank = counts.get(code.vocabulary, 0)
        if rank < 4 and CODE_PATTERNS[code.vocabulary].fullmatch(code.code):
            counts[code.vocabulary] = rank + 1
            yield rank, code.vocabulary, code.code, code.score, code.name


def _meta(
    counts: dict[str, int], vocabularies: tuple[Vocabulary, ...], wheels: tuple[Wheel, ...], digest: str
) -> Iterator[tuple[str, str]]:
    yield "format", str(FORMAT_VERSION)
    yield "content_sha256", digest
    for name, count in counts.items():
        yield f"count.{name}", str(count)
    by_key = {wheel.key: wheel for wheel in wheels}
    for position, vocabulary in enumerate(vocabularies):
        wheel = by_key[vocabulary.wheel]
        yield f"vocabulary.{position}.name", vocabulary.name
        yield f"vocabulary.{position}.edition", vocabulary.edition
        yield f"vocabulary.{position}.licence", vocabulary.licence
        yield f"vocabulary.{position}.credit", vocabulary.credit
        yield f"vocabulary.{position}.source", f"{wheel.name} {wheel.version} (sha256 {wheel.sha256})"
