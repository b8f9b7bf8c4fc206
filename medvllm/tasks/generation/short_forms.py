"""Clinical abbreviations of a prompt written out by the ontology: "Explain HTN." becomes "Explain hypertension (HTN)."

A small model that does not know a short form makes something up for it; on the long form it writes what it knows. Only
what is unambiguous is written out: a short form that the ontology's own list of clinical terms gives to one condition
or drug, in capitals, of three characters or more (two mean too much: PT, MS, AI), whose letters stand in a name of that
concept. The long form comes first: after "HTN (hypertension)" SmolLM2-135M went on about a word of its own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from medvllm.errors import MedvllmError

if TYPE_CHECKING:
    from medvllm.ontology.store import OntologyStore

__all__ = ["expand_short_forms"]

_SHORT_FORM = re.compile(r"(?<![\w.-])(?=[A-Z0-9]*[A-Z][A-Z0-9]*[A-Z])[A-Z][A-Z0-9]{2,6}(?![\w'’-]|\.\w)")
_TYPES = ("condition", "symptom", "medication")
# Words, countries and things of other trades in capitals, which a prompt may well mean, and clinical ones of two
# meanings.
_OTHER_WORDS = frozenset(
    """ACS ADD ADR AGE AIDS ALL AMI ARM BBB CAP CDI CHD CMP CRI DDD DOE GAD HAP IDA LAD LAN MAP MOF NMS PAD PDA PET PID
    PVC RAD RIF SAB SAD SCD SCI SSS STD TMJ USA""".split()  # noqa: SIM905 (a list of them fills a screen)
)
_EPONYMS = ("Hodgkin", "Guillain", "Barre", "B", "C")  # people and letters among the names that are given
_SHOUTED = 0.5  # of the other words in capitals: from there on capitals say nothing


def expand_short_forms(text: str) -> tuple[str, dict[str, str]]:
    """The text with the first place of each known short form written out, and what was written out, by short form.

    A short form that the text itself defines, or whose long form it uses, stays. Without the ontology store all stay.
    """
    places = {found[0]: found.start() for found in reversed(list(_SHORT_FORM.finditer(text)))}
    store = _store() if places else None
    if store is None:
        return text, {}
    from medvllm.tasks.abbreviations import find_definitions

    defined = {text[one.short_start : one.short_end] for one in find_definitions(text)}
    known = {short: long for short in places if (long := _long_form(store, short)) is not None}
    if _is_shouted(text, known):
        return text, {}
    wanted = {short: long for short, long in known.items() if short not in defined and long.lower() not in text.lower()}
    expanded = {short: wanted[short] for short in sorted(wanted, key=lambda short: places[short])}
    for short in reversed(expanded):  # from the end: earlier places stay valid
        at = places[short]
        text = f"{text[:at]}{expanded[short]} ({short}){text[at + len(short) :]}"
    return text, expanded


def _is_shouted(text: str, known: Collection[str]) -> bool:
    words = [word for word in re.findall(r"[A-Za-z][A-Za-z0-9]+", text) if word not in known]
    return bool(words) and sum(map(str.isupper, words)) > _SHOUTED * len(words)


@functools.cache
def _store() -> OntologyStore | None:
    from medvllm.ontology.store import OntologyStore
    from medvllm.ontology.user_stores import user_stores

    try:
        return OntologyStore.open(user=user_stores())
    except MedvllmError:  # not built: `factual_report` says so
        return None


def _long_form(store: OntologyStore, short: str) -> str | None:
    """What the ontology's own list gives for a short form: one concept, by a name that its letters stand for."""
    from medvllm.tasks.abbreviations import find_definitions

    payload = store.get(short)
    if payload is None or store.term_type(payload) not in _TYPES or short in _OTHER_WORDS:
        return None
    first, *others = store.phrase_senses(short)
    if first.kind != "curated" or any(other.kind == "curated" for other in others):
        return None
    for name in _names(store, first.concept_id):
        plain = not re.search(r"[,(\[]| with(?:out)? ", name) and short not in name
        if plain and find_definitions(f"{name} ({short})"):
            return _in_a_sentence(name)
    return None


def _names(store: OntologyStore, concept_id: int) -> Iterator[str]:
    concept = store.concept(concept_id)
    yield concept.name
    for codes in concept.codes.values():
        for code in codes:
            yield code.name


def _in_a_sentence(name: str) -> str:
    """A name of a vocabulary as it stands within a sentence: capitals of people and of letters only."""
    parts = re.split(r"([ -])", name)
    return "".join(part if part in _EPONYMS or part[1:] != part[1:].lower() else part.lower() for part in parts)
