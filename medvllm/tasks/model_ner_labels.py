"""Labels of token-classification models: their schemes (BIO, BIOES, BILOU, plain), and our types for theirs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from medvllm.errors import MedvllmError
from medvllm.tasks.entities import ENTITY_TYPES

__all__ = ["Label", "LabelTable", "label_table", "parse_label", "read_label_map"]

_TAGGED: Final = re.compile(r"([BIOLUES])[-_](.+)", re.DOTALL)
_MEANINGLESS: Final = re.compile(r"LABEL_\d+")
# B begins an entity, I is inside one, E ends one, S is one by itself. BILOU says L and U for E and S.
_SAME_TAG: Final = {"L": "E", "U": "S"}

# Names of types in public corpora and models (BC5CDR, NCBI, i2b2 2010, MACCROBAT, CADEC, DDI, UMLS semantic types …).
_NAMES: Final = {
    "condition": """disease disorder condition diagnosis problem disease_disorder medical_condition illness
        disease_or_syndrome disease_class diseaseclass specific_disease specificdisease compositemention
        disease_syndrome_disorder cancer neoplasm pathology medical_problem pathological_formation injury_or_poisoning
        dx_name""",
    "symptom": """symptom symptoms sign signs sign_symptom sign_or_symptom signs_and_symptoms finding clinical_finding
        phenotype symptom_name adr""",
    "medication": """medication medications medicine drug drug_name drugname treatment_drug generic_name brand_name
        drug_brandname drug_ingredient pharmaceutical brand""",
    "chemical": "chemical chemicals chem substance simple_chemical chemical_substance chemical_entity compound",
    "procedure": """procedure treatment therapeutic_procedure medical_procedure surgery procedure_name operation therapy
        treatment_procedure therapeutic_or_preventive_procedure""",
    "test": """test test_name diagnostic_procedure diagnostic_test lab_test labtest laboratory_test
        laboratory_procedure exam imaging""",
    "anatomical_structure": """anatomical_structure anatomy biological_structure body_structure body_part bodypart
        body_location bodyloc organ anatomical_system anatomical_site organism_subdivision multi_tissue_structure
        tissue""",
    "lab_value": "lab_value labvalue test_value test_result lab_result laboratory_value value measurement",
    "temporal": "temporal date time duration datetime timex time_expression relative_date",
}
_DEFAULT: Final = {name: kind for kind, names in _NAMES.items() for name in names.split()}


class Label(NamedTuple):
    """A label's tag (B, I, E, S, or O for no entity) and the model's name of the type, empty for O."""

    tag: str
    name: str


class LabelTable(NamedTuple):
    """For each label of a model: its tag and the type here, None where entities of the label are left out.

    `names` are the model's names; `given` whether the user's own table gave the type; `unused` the model's names
    without a type here.
    """

    tags: list[str]
    names: list[str]
    types: list[str | None]
    given: list[bool]
    unused: list[str]


def parse_label(label: str) -> Label:
    """Tag and type of a label; a label without a tag is a type, whose neighbouring tokens are one entity."""
    if label.upper() in ("O", "OUTSIDE", "NONE"):
        return Label("O", "")
    found = _TAGGED.fullmatch(label)
    if found is None or found[1] == "O":
        return Label("I", label)
    return Label(_SAME_TAG.get(found[1], found[1]), found[2])


def label_table(labels: Sequence[str], given: Mapping[str, str | None] | None = None, *, model: str) -> LabelTable:
    """The table for a model's labels in the order of its outputs.

    `given` maps names of types, or whole labels, to "O" (or None) for no entity, to a type here, or to a tag and a type
    (`B-condition`); it comes before the built-in table.

    Raises:
        MedvllmError: `given` names a label the model does not have, or no label means a type that is known here.
    """
    given = given or {}
    parsed = [parse_label(label) for label in labels]
    _check_names(given, labels, parsed, model)
    table = LabelTable([], [], [], [], [])
    for label, (tag, name) in zip(labels, parsed, strict=True):
        mine = next((key for key in (label, name) if key in given), None)
        if mine is not None:
            tag, name, kind = _as_given(given[mine], tag, name, whole=mine == label)
        else:
            kind = None if tag == "O" else _known(name)
            if tag != "O" and kind is None and name not in table.unused:
                table.unused.append(name)
        table.tags.append(tag)
        table.names.append(name)
        table.types.append(kind)
        table.given.append(mine is not None)
    if not any(table.types):
        raise MedvllmError(_nothing_known(labels, model))
    return table


def _as_given(value: str | None, tag: str, name: str, *, whole: bool) -> tuple[str, str, str | None]:
    """Tag, name and type of a label to which, or to whose type, the user's table gives `value`."""
    target = parse_label(value) if value else Label("O", "")
    if target.tag == "O":
        return ("O" if whole else tag), name, None
    if value != target.name:  # with a tag: labels that are given the same type belong together
        return target.tag, target.name, target.name
    return ("I" if tag == "O" else tag), name, target.name


def _known(name: str) -> str | None:
    plain = _plain(name)
    return _DEFAULT.get(plain) or (plain if plain in ENTITY_TYPES else None)


def read_label_map(path: Path) -> dict[str, str | None]:
    """The user's table, a JSON object from the model's labels to types here.

    Raises:
        MedvllmError: the file can't be read, is no such object, or names a type that is none of ENTITY_TYPES.
    """
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise MedvllmError(f"can't read the label map {path}: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise MedvllmError(f"the label map {path} is not JSON ({error}); give an object such as {_EXAMPLE}") from error
    if not isinstance(value, dict):
        raise MedvllmError(f"expected an object such as {_EXAMPLE} in {path}, got {type(value).__name__}")
    for label, kind in value.items():
        if kind is not None and not isinstance(kind, str):
            raise MedvllmError(f"{path}: '{label}' must be given a type or null, got {kind!r}")
        name = parse_label(kind).name if kind else ""
        if name and name not in ENTITY_TYPES:
            raise MedvllmError(f"{path}: '{label}' is given {kind!r}; the types are {', '.join(ENTITY_TYPES)}, or O")
    return value


_EXAMPLE: Final = '{"Disease": "condition", "LABEL_3": "B-medication", "Dosage": null}'


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.strip().lower()).strip("_")


def _check_names(given: Mapping[str, str | None], labels: Sequence[str], parsed: Iterable[Label], model: str) -> None:
    known = {*labels, *(label.name for label in parsed if label.name)}
    for name in given:
        if name not in known:
            raise MedvllmError(f"the label map names '{name}', but the labels of {model} are {_list(labels)}")


def _nothing_known(labels: Sequence[str], model: str) -> str:
    remedy = "say what they mean with --label-map FILE.json"
    if all(_MEANINGLESS.fullmatch(label) for label in labels):
        return f"the labels of {model} have no names ({_list(labels)}); {remedy}, such as {_EXAMPLE}"
    return f"no label of {model} is a type known here ({_list(labels)}); {remedy}"


def _list(labels: Sequence[str]) -> str:
    return ", ".join(labels[:8]) + (f", … ({len(labels)} labels)" if len(labels) > 8 else "")
