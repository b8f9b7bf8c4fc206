"""Surface forms: the key under which they are grouped, the variants made at build time, and the stop list."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

__all__ = ["british", "is_acronym", "junk_synonym", "key_of", "permutation", "plural_variants", "read_tsv"]

_TOKEN = re.compile(r"[^\W\d_]+|\d+|[^\w\s]|_")
_DASHES = frozenset("-\u2010\u2011\u2012\u2013\u2014\u2212")
_APOSTROPHES = frozenset("'\u2019")
_MODIFIER_TAIL = re.compile(r",? (susceptibility to|protection against|association with|modifier of)\b", re.IGNORECASE)


def key_of(phrase: str) -> str:
    """The folded tokens of a phrase joined by spaces: case, Latin diacritics, dashes and possessives ignored.

    Two phrases with one key are one entry of the phrase table.
    """
    if phrase.isascii():
        if phrase.isalpha():
            return phrase.lower()
        tokens = _TOKEN.findall(phrase.lower())
        if "-" in phrase:
            tokens = [token for token in tokens if token != "-"]
    else:
        phrase = "".join(c for c in unicodedata.normalize("NFKD", phrase) if not unicodedata.combining(c))
        tokens = [token for token in _TOKEN.findall(phrase.lower()) if token not in _DASHES]
    if "'" in phrase or "\u2019" in phrase:
        tokens = list(_without_possessives(tokens))
    return " ".join(tokens)


def _without_possessives(tokens: list[str]) -> Iterator[str]:
    skip = False
    for index, token in enumerate(tokens):
        if skip:
            skip = False
            continue
        if token in _APOSTROPHES and index > 0 and tokens[index - 1].isalpha():
            following = tokens[index + 1] if index + 1 < len(tokens) else ""
            skip = following == "s"
            if skip or tokens[index - 1].endswith("s"):
                continue
        yield token


def is_acronym(phrase: str) -> bool:
    """Whether a phrase is one short run of capitals (digits and dashes allowed), such as COPD or HIV-1."""
    if len(phrase) > 8 or not phrase.isupper() or " " in phrase:
        return False
    return sum(c.isalpha() for c in phrase) <= 5


def junk_synonym(phrase: str) -> bool:
    """Synonyms that no text contains: genetic-susceptibility titles, one character, very long systematic
    names."""
    return len(phrase) < 2 or len(phrase) > 90 or _MODIFIER_TAIL.search(phrase) is not None


def permutation(phrase: str) -> str | None:
    """`Diabetes Mellitus, Type 2` -> `Type 2 Diabetes Mellitus`; None unless there is exactly one `, `."""
    head, comma, tail = phrase.partition(", ")
    if not comma or not head or not tail or "," in tail or tail[:1] in "(" or tail.split()[0].lower() in _NOT_TAILS:
        return None
    return f"{tail} {head}"


_NOT_TAILS = frozenset({"with", "without", "and", "or", "due", "in", "of", "not", "unspecified", "other", "nos"})


def plural_variants(key: str) -> Iterator[str]:
    """Keys with the last word's number changed, for words long enough that the change is safe."""
    head, _, last = key.rpartition(" ")
    prefix = head + " " if head else ""
    if not last.isalpha() or len(last) < 4 or not last.isascii():
        return
    if last.endswith("ies") and len(last) > 5:
        yield prefix + last[:-3] + "y"
    elif last.endswith(("sses", "xes", "shes", "ches")):
        yield prefix + last[:-2]
    elif last.endswith(("ss", "us", "is", "ous")):
        if last.endswith("sis"):
            yield prefix + last[:-2] + "es"
        elif last.endswith("ss"):
            yield prefix + last + "es"
    elif last.endswith("s"):
        yield prefix + last[:-1]
    elif last.endswith("y") and last[-2] not in "aeiou":
        yield prefix + last[:-1] + "ies"
    elif last.endswith(("x", "sh", "ch")):
        yield prefix + last + "es"
    else:
        yield prefix + last + "s"


# American spellings inside words, and the British ones.
_SPELLINGS = tuple(
    (re.compile(american), spelled)
    for american, spelled in (
        (r"(?<!o)edem(?=a)", "oedem"),
        (r"gastroesoph", "gastro oesoph"),  # gastro-oesophageal: dashes are ignored
        (r"(?<!o)esoph", "oesoph"),
        (r"\bestr(?=[aio])", "oestr"),
        (r"rrhe(?=[aiu])", "rrhoe"),
        (r"pne(?=a|ic)", "pnoe"),
        (r"(?<!c)hem(?=o[a-z]|at[ieou]|ang)", "haem"),
        (r"(?<=[a-z]{2})em(?=ia[cs]?\b)", "aem"),
        (r"(an|isch|ur|lyc|leuk|kal|natr|calc|tox|lipid|sept|hypox)emic\b", r"\1aemic"),
        (r"\bleuko(?=[cp])", "leuco"),
        (r"tumor(?=s?\b)", "tumour"),
        (r"anesth", "anaesth"),
        (r"gynec", "gynaec"),
        (r"pediatr", "paediatr"),
        (r"orthoped", "orthopaed"),
        (r"\bcec(?=um|al\b)", "caec"),
        (r"\bfec(?=es|al\b)", "faec"),
        (r"\bceliac", "coeliac"),
        (r"pheochrom", "phaeochrom"),
        (r"sulf(?=[aiou])", "sulph"),
        (r"\bcolor\b", "colour"),
        (r"fiber(?=s?\b)", "fibre"),
        (r"behavior", "behaviour"),
        (r"paralyz", "paralys"),
        (r"ameb(?=[ai])", "amoeb"),
        (r"cesarean", "caesarean"),
    )
)


def british(key: str) -> str:
    """The key in British spelling: `iron deficiency anemia` -> `iron deficiency anaemia`."""
    for american, spelled in _SPELLINGS:
        key = american.sub(spelled, key)
    return key


def read_tsv(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, columns) of a tab-separated file; blank lines and lines that start with # are skipped."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            yield number, [column.strip() for column in line.split("\t")]
