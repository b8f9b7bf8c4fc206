"""The entity type of a concept: from MeSH tree numbers, and for drugs from the FDA registry's compendium
tags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medvllm.errors import MedvllmError
from medvllm.ontology.terms import read_tsv
from medvllm.tasks.entities import ENTITY_TYPES

__all__ = ["CLINICAL_TAGS", "TypeRule", "TypeRules"]

# Compendium tags of substances that are prescribed, against those that are only catalogued.
CLINICAL_TAGS = frozenset(
    {"VANDF", "ORANGE BOOK", "PURPLE BOOK CDER", "EMA EPAR", "USAN", "INN", "WHO-IP", "USP MONOGRAPH", "JAN"}
)
_ORDER = ("symptom", "condition", "procedure", "test", "medication", "chemical", "anatomical_structure")


@dataclass(frozen=True, slots=True)
class TypeRule:
    """An entity type and whether terms of it are found in text."""

    type: str
    detect: bool


class TypeRules:
    """data/type_rules.tsv: MeSH tree prefix or descriptor code -> TypeRule."""

    def __init__(self, path: Path) -> None:
        self._prefixes: dict[str, TypeRule] = {}
        self._known: dict[str, TypeRule | None] = {}  # tree numbers asked for before; most are asked for often
        for number, columns in read_tsv(path):
            if len(columns) != 3 or columns[1] not in ENTITY_TYPES or columns[2] not in ("yes", "no"):
                raise MedvllmError(f"{path.name}:{number}: expected prefix, entity type, yes or no; got {columns}")
            self._prefixes[columns[0]] = TypeRule(columns[1], columns[2] == "yes")

    def of_code(self, code: str) -> TypeRule | None:
        """The rule set for one descriptor, if any."""
        return self._prefixes.get(code)

    def of_trees(self, trees: tuple[str, ...]) -> TypeRule | None:
        """The rule of a concept with these tree numbers, or None when no prefix covers any of them."""
        best: TypeRule | None = None
        for tree in trees:
            rule = self._of_tree(tree)
            if rule is not None and (best is None or _rank(rule) < _rank(best)):
                best = rule
        return best

    def _of_tree(self, tree: str) -> TypeRule | None:
        if tree in self._known:
            return self._known[tree]
        found = None
        for length in range(len(tree), 0, -1):
            rule = self._prefixes.get(tree[:length])
            if rule is not None and (length == len(tree) or length == 1 or tree[length] == "." or length == 3):
                found = rule
                break
        self._known[tree] = found
        return found


def _rank(rule: TypeRule) -> tuple[int, bool]:
    return _ORDER.index(rule.type), not rule.detect
