"""Other spellings under which a vocabulary may list a phrase: number, British spelling, "deficiency of", modifiers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

__all__ = ["variants"]

# Words before a disease that say how it runs, where it is or whom it takes, not what it is.
_MODIFIERS: Final = frozenset(
    {
        "severe", "mild", "moderate", "marked", "profound", "transient", "persistent", "recurrent", "progressive",
        "reversible", "irreversible", "sudden", "fatal", "fulminant", "massive", "extensive", "diffuse",
        "generalized", "generalised", "bilateral", "unilateral", "left", "right", "sided", "early", "late", "new",
        "onset", "isolated", "idiopathic", "familial", "hereditary", "inherited", "sporadic", "primary", "secondary",
        "classical", "classic", "typical", "acute", "subacute", "chronic", "postoperative", "perioperative",
        "symptomatic", "asymptomatic", "clinical", "overt", "possible", "probable", "suspected", "underlying",
        "human", "adult", "childhood", "juvenile", "infantile", "autosomal", "dominant", "recessive", "linked", "x",
        "stage", "type", "i", "ii", "iii", "iv", "iia", "iib", "a", "b", "increased", "significant", "minor", "major",
        "refractory", "intermittent", "spontaneous", "induced", "drug", "related", "associated", "occasional",
        "prolonged", "delayed",
    }
)  # fmt: skip
_BRITISH: Final = (
    ("tumour", "tumor"), ("oedema", "edema"), ("anaemi", "anemi"), ("leukaemi", "leukemi"), ("haem", "hem"),
    ("oesoph", "esoph"), ("oestr", "estr"), ("paed", "ped"), ("diarrhoea", "diarrhea"), ("dyspnoea", "dyspnea"),
    ("caemi", "cemi"), ("kalaemi", "kalemi"), ("natraemi", "natremi"), ("uraemi", "uremi"), ("ischaemi", "ischemi"),
    ("aemia", "emia"), ("fibre", "fiber"), ("sulph", "sulf"), ("phaeo", "pheo"), ("foet", "fet"),
)  # fmt: skip
_OF: Final = re.compile(r"(.+?) (?:of|in) (?:the )?(.+)")
_WORD: Final = re.compile(r"[^\s\-/]+")


def variants(phrase: str) -> Iterator[str]:
    """Phrases to look up in place of one that is not listed, the closest first; the phrase itself is not among them."""
    phrase = phrase.strip().lower()
    yield from _spellings(phrase)
    for modifier in _WORD.finditer(phrase):
        if modifier.group() not in _MODIFIERS:
            break
        rest = phrase[modifier.end() :].lstrip(" -/,")
        if rest and rest != phrase:
            yield rest
            yield from _spellings(rest)


def _spellings(phrase: str) -> Iterator[str]:
    american = phrase
    for british, other in _BRITISH:
        american = american.replace(british, other)
    if american != phrase:
        yield american
    yield from _numbers(american)
    if american.endswith(("-deficient", " deficient")):
        yield american[:-10] + " deficiency"
    turned = _OF.fullmatch(american)
    if turned is not None:
        yield f"{turned.group(2)} {turned.group(1)}"
        yield from _numbers(f"{turned.group(2)} {turned.group(1)}")


def _numbers(phrase: str) -> Iterator[str]:
    """The phrase with the number of its last word changed."""
    if len(phrase) < 5 or not phrase[-1].isalpha():
        return
    if phrase.endswith("ies"):
        yield phrase[:-3] + "y"
    elif phrase.endswith(("sses", "xes", "ches", "shes")):
        yield phrase[:-2]
    elif phrase.endswith("ses"):
        yield phrase[:-2] + "is"
    elif phrase.endswith("mata"):
        yield phrase[:-2]
    elif phrase.endswith("s") and not phrase.endswith(("ss", "us", "is")):
        yield phrase[:-1]
    else:
        yield phrase + "s"
