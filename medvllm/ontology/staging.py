"""The work database of an import, and the store made from it.

Rows are staged in an SQLite file together with how far each source file has been read, in one transaction, so
that an import that was killed goes on where it stood. The store is then written from sorted queries: it
depends only on what was staged, not on how often the import was interrupted. Memory stays bounded: sorting
spills to the work folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from medvllm_kernels.text import PhraseTableWriter

from medvllm.ontology.writer import CASED, INDEXES, TYPE_SHIFT, connect_for_writing

__all__ = ["LOOKUP_ONLY", "Stage"]

LOOKUP_ONLY = 0  # type code of terms that are not found in text
_KINDS = 4
_SCHEMA = """
CREATE TABLE IF NOT EXISTS progress (source TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, done INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS concept (id TEXT PRIMARY KEY, vocabulary TEXT NOT NULL, code TEXT NOT NULL,
    rank INTEGER NOT NULL, name TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS type (id TEXT PRIMARY KEY, priority INTEGER NOT NULL, code INTEGER NOT NULL,
    found INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS code (id TEXT NOT NULL, vocabulary TEXT NOT NULL, code TEXT NOT NULL,
    score INTEGER NOT NULL, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS term (key TEXT NOT NULL, id TEXT NOT NULL, kind INTEGER NOT NULL,
    cased INTEGER NOT NULL);
"""
_CONCEPT = """INSERT INTO concept VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET rank = excluded.rank,
    name = excluded.name WHERE (excluded.rank, excluded.name) < (rank, name)"""
_TYPE = """INSERT INTO type VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET priority = excluded.priority,
    code = excluded.code, found = excluded.found WHERE excluded.priority < priority"""


class Stage:
    """The work database in `folder`/stage.sqlite; open one at a time (the importer holds a lock)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._database = sqlite3.connect(folder / "stage.sqlite", isolation_level=None)
        # WAL survives a kill at any moment; the cache bounds memory at 64 MiB.
        self._database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-65536;")
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the work database; what was staged stays."""
        self._database.close()

    def discard(self) -> None:
        """Remove the work folder with everything staged."""
        self.close()
        shutil.rmtree(self.folder)

    def is_empty(self) -> bool:
        """Whether no term is staged."""
        return self._database.execute("SELECT 1 FROM term LIMIT 1").fetchone() is None

    def progress(self, source: str) -> tuple[str, int] | None:
        """(fingerprint, position) that `source` has been staged up to, or None when it has not been begun."""
        row = self._database.execute("SELECT fingerprint, done FROM progress WHERE source = ?", (source,)).fetchone()
        return None if row is None else (str(row[0]), int(row[1]))

    def add(
        self,
        source: str,
        fingerprint: str,
        done: int,
        *,
        concepts: list[tuple[str, str, str, int, str]] | None = None,
        types: list[tuple[str, int, int, int]] | None = None,
        codes: list[tuple[str, str, str, int, str]] | None = None,
        terms: list[tuple[str, str, int, int]] | None = None,
    ) -> None:
        """Stage rows and record that `source` is read up to `done`, in one transaction.

        concepts: (id, vocabulary, code, rank of the name: lower wins, name); types: (id, priority: lower
        wins, type code, 1 when terms are found in text); codes: (id, vocabulary, code, score in thousandths,
        name); terms: (key, id, kind, 1 when it counts only in capitals).
        """
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        try:
            database.executemany(_CONCEPT, concepts or ())
            database.executemany(_TYPE, types or ())
            database.executemany("INSERT INTO code VALUES (?, ?, ?, ?, ?)", codes or ())
            database.executemany("INSERT INTO term VALUES (?, ?, ?, ?)", terms or ())
            database.execute("INSERT OR REPLACE INTO progress VALUES (?, ?, ?)", (source, fingerprint, done))
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")

    def write(self, output: Path, meta: dict[str, str], not_in_text: frozenset[str]) -> dict[str, int]:
        """Write the store and put it in `output`, replacing a store that is there; returns counts.

        `not_in_text` are keys that are never found in running text. The work folder is removed at the end.
        """
        target = self.folder / "store"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        with _temporary_files_in(self.folder):
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            final = connect_for_writing(target / "concepts.sqlite")
            final.executescript("PRAGMA cache_size=-65536; PRAGMA temp_store=FILE;")
            final.execute("ATTACH DATABASE ? AS stage", (str(self.folder / "stage.sqlite"),))
            final.execute("BEGIN")
            self._copy_concepts(final)
            counts = self._write_terms(final, target, not_in_text)
            for name, count in counts.items():
                meta[f"count.{name}"] = str(count)
            meta["content_sha256"] = _content_digest(final, target)
            final.executemany("INSERT INTO meta VALUES (?, ?)", sorted(meta.items()))
            final.execute("COMMIT")
            final.execute("DETACH DATABASE stage")
            final.executescript(INDEXES)
            final.execute("VACUUM")
            final.close()
        self.close()
        _put_in_place(target, output)
        shutil.rmtree(self.folder)
        return counts

    def _copy_concepts(self, final: sqlite3.Connection) -> None:
        """Number the vocabularies and concepts in order, and give each concept its codes, best first."""
        final.execute(
            "INSERT INTO vocabulary SELECT row_number() OVER (ORDER BY name) - 1, name FROM"
            " (SELECT DISTINCT vocabulary AS name FROM stage.concept UNION SELECT DISTINCT vocabulary FROM stage.code)"
        )
        final.execute("CREATE TEMP TABLE numbered (id TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID")
        final.execute("INSERT INTO numbered SELECT id, row_number() OVER (ORDER BY id) - 1 FROM stage.concept")
        final.execute(
            "INSERT INTO concept SELECT n.number, v.id, c.code, coalesce(t.code, 0), c.name FROM stage.concept c"
            " JOIN numbered n ON n.id = c.id JOIN vocabulary v ON v.name = c.vocabulary"
            " LEFT JOIN stage.type t ON t.id = c.id ORDER BY n.number"
        )
        final.execute(
            "INSERT INTO code SELECT number, vocabulary, rank - 1, code, score, name FROM (SELECT n.number AS number,"
            " v.id AS vocabulary,"
            " row_number() OVER (PARTITION BY n.number, v.id ORDER BY c.score DESC, c.code) AS rank,"
            " c.code AS code, c.score AS score, c.name AS name FROM (SELECT id, vocabulary, code, max(score) AS score,"
            " min(name) AS name FROM stage.code GROUP BY id, vocabulary, code) c JOIN numbered n ON n.id = c.id"
            " JOIN vocabulary v ON v.name = c.vocabulary) WHERE rank <= 8 ORDER BY number, vocabulary, rank"
        )

    def _write_terms(self, final: sqlite3.Connection, target: Path, not_in_text: frozenset[str]) -> dict[str, int]:
        """The phrase tables and `sense`.

        A term with one sense has the id 1 + 4 × concept + kind, so that the concept's terms share it; a term
        with several has an id of its own above those.
        """
        concepts = int(final.execute("SELECT count(*) FROM concept").fetchone()[0])
        next_id = 1 + _KINDS * concepts
        counts = {"concepts": concepts, "terms": 0, "terms found in text": 0}
        final.execute("CREATE TEMP TABLE single (term INTEGER PRIMARY KEY)")
        several: list[tuple[int, int, int, int]] = []
        final.execute("CREATE TEMP TABLE several (term INTEGER, rank INTEGER, concept INTEGER, kind INTEGER)")
        with (
            PhraseTableWriter(target / "terms.bin") as in_text,
            PhraseTableWriter(target / "lookup.bin") as lookup,
        ):
            singles: set[int] = set()
            for key, cased, senses in _grouped(final):
                type_code = next((code for _, _, code in senses if code), LOOKUP_ONLY)
                if key in not_in_text or (len(key) < 3 and not cased) or key.isdigit():
                    type_code = LOOKUP_ONLY
                if len(senses) == 1:
                    payload = 1 + _KINDS * senses[0][0] + senses[0][1]
                    singles.add(payload)
                else:
                    payload, next_id = next_id, next_id + 1
                    several.extend((payload, rank, number, kind) for rank, (number, kind, _) in enumerate(senses))
                counts["terms"] += 1
                counts["terms found in text"] += type_code != LOOKUP_ONLY
                table = lookup if type_code == LOOKUP_ONLY else in_text
                table.add(key, payload | type_code << TYPE_SHIFT | (CASED if cased else 0))
                if len(singles) + len(several) >= 100_000:
                    _flush(final, singles, several)
            _flush(final, singles, several)
        final.execute(
            f"INSERT INTO sense SELECT term, 0, (term - 1) / {_KINDS}, (term - 1) % {_KINDS} FROM single ORDER BY term"
        )
        final.execute("INSERT INTO sense SELECT term, rank, concept, kind FROM several ORDER BY term, rank")
        return counts


def _flush(final: sqlite3.Connection, singles: set[int], several: list[tuple[int, int, int, int]]) -> None:
    final.executemany("INSERT OR IGNORE INTO single VALUES (?)", ((term,) for term in sorted(singles)))
    final.executemany("INSERT INTO several VALUES (?, ?, ?, ?)", several)
    singles.clear()
    several.clear()


def _grouped(final: sqlite3.Connection) -> Iterator[tuple[str, bool, list[tuple[int, int, int]]]]:
    """(key, cased, senses) in the order of the keys; a sense is (concept number, kind, type code when found
    in text)."""
    rows = final.execute(
        "SELECT t.key, n.number, min(t.kind), min(t.cased), coalesce(max(y.code * y.found), 0) FROM stage.term t"
        " JOIN numbered n ON n.id = t.id LEFT JOIN stage.type y ON y.id = t.id GROUP BY t.key, n.number"
        " ORDER BY t.key, min(t.kind), n.number"
    )
    current, cased = None, 1
    senses: list[tuple[int, int, int]] = []
    for key, number, kind, row_cased, type_code in rows:
        if key != current:
            if current is not None:
                yield current, bool(cased), senses[:8]
            current, cased, senses = key, 1, []
        cased = min(cased, row_cased)
        senses.append((number, kind, type_code))
    if current is not None:
        yield current, bool(cased), senses[:8]


def _content_digest(final: sqlite3.Connection, target: Path) -> str:
    digest = hashlib.sha256()
    for table in ("vocabulary", "concept", "code", "sense"):
        for row in final.execute(f"SELECT * FROM {table}"):  # tables of one key: read in its order
            digest.update(repr(row).encode())
    for name in ("terms.bin", "lookup.bin"):
        with open(target / name, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """SQLite's sorting spills into `folder` instead of /tmp, which may be small or in memory."""
    before = os.environ.get("SQLITE_TMPDIR")
    os.environ["SQLITE_TMPDIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SQLITE_TMPDIR"]
        else:
            os.environ["SQLITE_TMPDIR"] = before


def _put_in_place(target: Path, output: Path) -> None:
    """Sync a finished store folder and rename it to `output`; the one that was there is removed
    afterwards."""
    for file in target.iterdir():
        with open(file, "rb+") as handle:
            os.fsync(handle.fileno())
    old = output.parent / f".{output.name}.replaced"
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        os.rename(output, old)
    os.rename(target, output)
    shutil.rmtree(old, ignore_errors=True)
