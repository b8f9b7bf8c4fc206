"""Importing a user's vocabularies: UMLS or RxNorm release files (RRF), or a CSV of terms and codes.

Both write a store of the same format as the built-in one, to be opened on top of it. A killed import goes on
where it stood when it is started again with the same arguments, and gives the same store as one that was not
interrupted.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medvllm.errors import MedvllmError
from medvllm.ontology.sources import DATA_DIR
from medvllm.ontology.staging import LOOKUP_ONLY, Stage
from medvllm.ontology.store import FORMAT_VERSION, resolve_vocabulary
from medvllm.ontology.terms import is_acronym, junk_synonym, key_of, read_tsv
from medvllm.tasks.entities import ENTITY_TYPES
from medvllm_programs.files import file_lock

__all__ = ["Progress", "import_csv", "import_rrf"]

_BATCH_BYTES = 2 << 20  # read and committed at once: about 20,000 rows
_COLUMNS = 18  # of MRCONSO.RRF and RXNCONSO.RRF, without the empty one after the last separator
_MAX_TOKENS = 9
_NAME, _SYNONYM = 0, 1  # kinds of senses, as in the built-in store

# Source abbreviations -> the vocabulary names of this product. Codes of other sources are kept under their
# own name only when `sabs` asks for them.
_SABS = {
    "MSH": "MESH",
    "SNOMEDCT_US": "SNOMED",
    "ICD10CM": "ICD10CM",
    "HPO": "HPO",
    "RXNORM": "RXNORM",
    "LNC": "LOINC",
    "ICD10PCS": "ICD10PCS",
    "ATC": "ATC",
}
# Term types with which a source names its own main entry; the code of such a row means the concept itself.
_MAIN_TERM_TYPES = frozenset({"MH", "NM", "PT", "FN", "PN", "IN", "PIN", "MIN", "SCD", "SBD", "LN", "HT", "BN"})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an import is: bytes read of the release files, and of how many."""

    done_bytes: int
    total_bytes: int


@dataclass(slots=True)
class _Batch:
    concepts: list[tuple[str, str, str, int, str]] = field(default_factory=list)
    types: list[tuple[str, int, int, int]] = field(default_factory=list)
    codes: list[tuple[str, str, str, int, str]] = field(default_factory=list)
    terms: list[tuple[str, str, int, int]] = field(default_factory=list)


def import_rrf(
    path: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    languages: tuple[str, ...] = ("ENG",),
    sabs: tuple[str, ...] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, int]:
    """Import MRCONSO.RRF or RXNCONSO.RRF into a store at `output_dir`; returns counts.

    MRSTY.RRF (RXNSTY.RRF) in the same folder gives the semantic types; without it the terms of MRCONSO are
    linked but not found in text. `sabs` keeps only rows of these sources. Suppressed rows are skipped. Raises
    MedvllmError for a missing or malformed file, naming file and line.
    """
    source, output = Path(path), Path(output_dir)
    if not source.is_file():
        raise MedvllmError(f"{source}: {_absence(source)}; expected MRCONSO.RRF or RXNCONSO.RRF")
    rxnorm = source.name.upper().startswith("RXN")
    types = source.with_name("RXNSTY.RRF" if rxnorm else "MRSTY.RRF")
    parser = _Conso(source, rxnorm, languages, None if sabs is None else frozenset(sabs))
    settings = f"languages={languages} sabs={sabs}"
    steps: list[tuple[Path, Callable[[bytes, int, _Batch], None]]] = []
    if types.is_file():
        steps.append((types, _Types(types).add))
    steps.append((source, parser.add))
    total = sum(file.stat().st_size for file, _ in steps)
    output.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(output.parent / f".{output.name}.lock"):
        stage = Stage(output.parent / f".{output.name}.import")
        before = 0
        for file, add in steps:
            _stage_lines(stage, file, settings, add, before, total, progress)
            before += file.stat().st_size
        if stage.is_empty():
            stage.discard()
            sought = f"language {' or '.join(languages)}" + (f" and source {' or '.join(sabs)}" if sabs else "")
            raise MedvllmError(f"{source} holds no term of {sought}; nothing was imported")
        return stage.write(output, _meta(source, "RXNORM" if rxnorm else "UMLS"), _not_in_text())


def _absence(path: Path) -> str:
    return "a folder" if path.is_dir() else "no such file"


def _meta(source: Path, vocabulary: str) -> dict[str, str]:
    return {
        "format": str(FORMAT_VERSION),
        "vocabulary.0.name": vocabulary,
        "vocabulary.0.edition": "imported by the user",
        "vocabulary.0.licence": "that of the imported file",
        "vocabulary.0.credit": f"imported from {source.name}",
        "vocabulary.0.source": source.name,
    }


def _not_in_text() -> frozenset[str]:
    return frozenset(
        key_of(columns[0]) for _, columns in read_tsv(DATA_DIR / "stop_terms.tsv") if columns[1] == "lookup"
    )


def _fingerprint(file: Path, settings: str) -> str:
    """What must be unchanged for an import to go on: size, time, first bytes, and the options."""
    stat = file.stat()
    with open(file, "rb") as handle:
        head = hashlib.sha256(handle.read(1 << 16)).hexdigest()
    return f"{stat.st_size} {stat.st_mtime_ns} {head} {settings}"


def _stage_lines(
    stage: Stage,
    file: Path,
    settings: str,
    add: Callable[[bytes, int, _Batch], None],
    before: int,
    total: int,
    progress: Callable[[Progress], None] | None,
) -> None:
    """Stage one release file in batches from where it was left."""
    fingerprint = _fingerprint(file, settings)
    known = stage.progress(file.name)
    if known is not None and known[0] != fingerprint:
        raise MedvllmError(
            f"{file} or the options have changed since the import was begun; remove {stage.folder} to begin again"
        )
    offset = known[1] if known is not None else 0
    with open(file, "rb") as handle:
        handle.seek(offset)
        while True:
            block = handle.read(_BATCH_BYTES)
            block += handle.readline()
            batch = _Batch()
            add(block, offset, batch)
            offset += len(block)
            stage.add(
                file.name,
                fingerprint,
                offset,
                concepts=batch.concepts,
                types=batch.types,
                codes=batch.codes,
                terms=batch.terms,
            )
            if progress is not None:
                progress(Progress(before + offset, total))
            if not block:
                return


def _line_number(file: Path, offset: int) -> int:
    """The number of the line that begins at a byte offset; read only for an error message."""
    number = 1
    with open(file, "rb") as handle:
        while offset > 0 and (block := handle.read(min(offset, 1 << 20))):
            number += block.count(b"\n")
            offset -= len(block)
    return number


class _Conso:
    """Rows of MRCONSO.RRF or RXNCONSO.RRF: concepts, codes and terms."""

    def __init__(self, file: Path, rxnorm: bool, languages: tuple[str, ...], sabs: frozenset[str] | None) -> None:
        self._file = file
        self._languages = frozenset(languages)
        self._sabs = sabs
        self._vocabulary = "RXNORM" if rxnorm else "UMLS"
        self._medication = 1 + ENTITY_TYPES.index("medication") if rxnorm else LOOKUP_ONLY

    def add(self, block: bytes, offset: int, batch: _Batch) -> None:
        """Parse a block of whole lines that begins at `offset` of the file."""
        names: dict[str, tuple[int, str]] = {}
        codes: dict[tuple[str, str, str], tuple[int, str]] = {}
        terms: dict[tuple[str, str], tuple[int, int]] = {}
        for row in _rows(self._file, block, offset, _COLUMNS):
            concept, language, ts, stt, preferred = row[0], row[1], row[2], row[4], row[6]
            sab, tty, code, text, suppress = row[11], row[12], row[13], row[14], row[16]
            if language not in self._languages or suppress in ("O", "E", "Y"):
                continue
            if self._sabs is not None and sab not in self._sabs:
                continue
            best = ts == "P" and stt == "PF" and preferred == "Y"
            name = (0 if best else 1 if tty in _MAIN_TERM_TYPES else 2, text)
            if concept not in names or name < names[concept]:
                names[concept] = name
            self._add_code(codes, concept, sab, tty, code, text)
            if not junk_synonym(text):
                key = key_of(text)
                if key and key.count(" ") < _MAX_TOKENS:
                    kind, cased = _NAME if best else _SYNONYM, int(is_acronym(text))
                    known = terms.get((key, concept), (kind, cased))
                    terms[key, concept] = (min(kind, known[0]), min(cased, known[1]))
        vocabulary = self._vocabulary
        batch.concepts.extend((concept, vocabulary, concept, rank, text) for concept, (rank, text) in names.items())
        batch.codes.extend((*identity, score, text) for identity, (score, text) in codes.items())
        batch.terms.extend((key, concept, kind, cased) for (key, concept), (kind, cased) in terms.items())
        if self._medication:
            batch.types.extend((concept, 99, self._medication, 1) for concept in names)

    def _add_code(
        self,
        codes: dict[tuple[str, str, str], tuple[int, str]],
        concept: str,
        sab: str,
        tty: str,
        code: str,
        text: str,
    ) -> None:
        vocabulary = _SABS.get(sab) or (sab if self._sabs is not None else None)
        if vocabulary is None or vocabulary == self._vocabulary or code in ("", "NOCODE"):
            return
        entry = (1000 if tty in _MAIN_TERM_TYPES else 500, text)
        known = codes.get((concept, vocabulary, code))
        if known is None or (-entry[0], text) < (-known[0], known[1]):
            codes[concept, vocabulary, code] = entry


def _rows(file: Path, block: bytes, offset: int, columns: int) -> Iterator[list[str]]:
    """The fields of each line; raises MedvllmError naming the line for wrong UTF-8 or a wrong number of
    fields."""
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError as error:
        number = _line_number(file, offset + error.start)
        raise MedvllmError(
            f"{file}:{number}: not UTF-8 ({error.reason}); expected a release file as published"
        ) from None
    for index, line in enumerate(text.split("\n")):
        if not line:
            continue
        row = line.rstrip("\r").split("|")
        if len(row) not in (columns, columns + 1):
            number = _line_number(file, offset) + index
            raise MedvllmError(f"{file}:{number}: expected {columns} fields between |, got {len(row)}")
        yield row


class _Types:
    """Rows of MRSTY.RRF: the entity type of each concept, by semantic_types.tsv; an earlier row of that file
    wins."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._types: dict[str, tuple[int, int, int]] = {}
        for priority, (number, columns) in enumerate(read_tsv(DATA_DIR / "semantic_types.tsv")):
            if len(columns) != 4 or columns[1] not in ENTITY_TYPES or columns[2] not in ("yes", "no"):
                raise MedvllmError(f"semantic_types.tsv:{number}: expected identifier, entity type, yes or no, name")
            self._types[columns[0]] = (priority, 1 + ENTITY_TYPES.index(columns[1]), int(columns[2] == "yes"))

    def add(self, block: bytes, offset: int, batch: _Batch) -> None:
        """Parse a block of whole lines that begins at `offset` of the file."""
        for row in _rows(self._file, block, offset, 6):
            known = self._types.get(row[1])
            if known is not None:
                batch.types.append((row[0], *known))


def import_csv(path: str | os.PathLike[str], output_dir: str | os.PathLike[str]) -> dict[str, int]:
    """Import a CSV with the columns term, code, vocabulary and optionally type, name into a store; returns
    counts.

    `type` is an entity type; without the column every term is a condition, and a term whose cell is empty is
    linked but not found in text. Several rows with one code are synonyms: the first term, or `name` where
    given, is the concept's name. Raises MedvllmError naming file:line:column.
    """
    source, output = Path(path), Path(output_dir)
    if not source.is_file():
        raise MedvllmError(f"{source}: {_absence(source)}; expected a CSV with the columns term,code,vocabulary")
    output.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(output.parent / f".{output.name}.lock"):
        stage = Stage(output.parent / f".{output.name}.import")
        try:
            vocabularies = _stage_csv(stage, source)
            if stage.is_empty():
                raise MedvllmError(f"{source} holds no term; nothing was imported")
        except BaseException:
            stage.discard()
            raise
        return stage.write(output, _meta(source, ", ".join(vocabularies)), _not_in_text())


def _stage_csv(stage: Stage, source: Path) -> list[str]:
    batch = _Batch()
    names: dict[str, str] = {}
    vocabularies: dict[str, None] = {}
    for order, row in enumerate(_csv_rows(source)):
        concept = f"{row.vocabulary}|{row.code}"
        vocabularies[row.vocabulary] = None
        first = names.setdefault(concept, row.name or row.term)
        if row.name and first != row.name:
            raise MedvllmError(
                f"{source}:{row.line}:name: {row.vocabulary} {row.code} is named '{first}' above and '{row.name}' here"
            )
        batch.concepts.append((concept, row.vocabulary, row.code, order, first))
        if row.type:
            batch.types.append((concept, order, 1 + ENTITY_TYPES.index(row.type), 1))
        key = key_of(row.term)
        batch.terms.append((key, concept, _NAME if row.term == first else _SYNONYM, int(is_acronym(row.term))))
    stage.add(source.name, "csv", 1, concepts=batch.concepts, types=batch.types, terms=batch.terms)
    return list(vocabularies)


@dataclass(frozen=True, slots=True)
class _CsvRow:
    line: int
    term: str
    code: str
    vocabulary: str
    type: str
    name: str


def _csv_rows(source: Path) -> Iterator[_CsvRow]:
    try:
        with open(source, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = [name.strip().lower() for name in reader.fieldnames or ()]
            for column in ("term", "code", "vocabulary"):
                if column not in header:
                    raise MedvllmError(f"{source}:1:{column}: the column is missing; expected term,code,vocabulary")
            unknown = [column for column in header if column not in ("term", "code", "vocabulary", "type", "name")]
            if unknown:
                raise MedvllmError(f"{source}:1:{unknown[0]}: unknown column; expected term,code,vocabulary,type,name")
            reader.fieldnames = header
            for values in reader:
                yield _checked(source, reader.line_num, values)
    except UnicodeDecodeError as error:
        raise MedvllmError(f"{source}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    except csv.Error as error:
        raise MedvllmError(f"{source}:{reader.line_num}: {error}; expected comma-separated values") from None


def _checked(source: Path, line: int, values: dict[str | None, str | list[str] | None]) -> _CsvRow:
    if None in values:
        raise MedvllmError(f"{source}:{line}: more values than columns; quote values that hold a comma")
    row = {str(column): str(value or "").strip() for column, value in values.items()}
    for column in ("term", "code", "vocabulary"):
        if not row[column]:
            raise MedvllmError(f"{source}:{line}:{column}: empty; expected a value")
    if not key_of(row["term"]):
        raise MedvllmError(f"{source}:{line}:term: '{row['term']}' has no letter or digit")
    kind = row.get("type", "condition").lower()
    if kind and kind not in ENTITY_TYPES:
        raise MedvllmError(f"{source}:{line}:type: unknown type '{kind}'; use one of {', '.join(ENTITY_TYPES)}")
    vocabulary = row["vocabulary"].upper()
    if vocabulary == "ALL":
        raise MedvllmError(f"{source}:{line}:vocabulary: ALL is not the name of a vocabulary")
    vocabulary = resolve_vocabulary(vocabulary, (vocabulary,))
    return _CsvRow(line, row["term"], row["code"], vocabulary, kind, row.get("name", ""))
