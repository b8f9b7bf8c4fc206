"""The cues of assertion: read from data/assertion_cues.tsv, found in a text."""

from __future__ import annotations

import functools
import itertools
import re
from array import array
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from medvllm_kernels.text import PhraseTable

__all__ = [
    "ADJACENT",
    "CLAUSE",
    "FAM",
    "HIST",
    "HYPO",
    "NEG",
    "OTH",
    "PHRASE",
    "POS",
    "REC",
    "Cue",
    "Kind",
    "cue_array",
    "cue_kinds",
    "find_cues",
]

# Dimensions of a scope; each has a slot for clauses and one for noun phrases.
NEG, POS, HIST, HYPO, FAM, OTH, REC = range(7)
_DIMENSIONS = {"neg": NEG, "pos": POS, "hist": HIST, "hypo": HYPO, "fam": FAM, "oth": OTH, "rec": REC}
CLAUSE, PHRASE, ADJACENT = range(3)
_REACH = {"": CLAUSE, "np": PHRASE, "=adj": ADJACENT}


class Kind(NamedTuple):
    """What a cue does. `forward` and `backward` hold (dimension, reach)."""

    forward: tuple[tuple[int, int], ...] = ()
    backward: tuple[tuple[int, int], ...] = ()
    stop: str = ""  # "" | all | np | neg | he | she | they
    person: str = ""  # "" | family | other
    gender: str = ""  # "" | f | m
    pseudo: bool = False


class Cue(NamedTuple):
    start: int
    end: int
    kind: Kind


def _kind(effects: str) -> Kind:
    """The meaning of the first column of the cue file."""
    forward: list[tuple[int, int]] = []
    backward: list[tuple[int, int]] = []
    stop = person = gender = ""
    for effect in effects.split():
        head, _, tail = effect.partition(".")
        if head in ("stop", "clause"):
            stop = tail or "all"
        elif head in ("person", "other"):
            person, gender = ("family" if head == "person" else "other"), tail
        elif effect.endswith("=adj"):
            forward.append((_DIMENSIONS[effect[:-4]], ADJACENT))
        elif effect != "pseudo":
            direction = ">" if ">" in effect else "<"
            name, reach = effect.split(direction)
            (forward if direction == ">" else backward).append((_DIMENSIONS[name], _REACH[reach]))
    return Kind(tuple(forward), tuple(backward), stop, person, gender, effects == "pseudo")


_BRACES = re.compile(r"\{([^{}]*)\}")


def _expand(pattern: str) -> Iterator[str]:
    """The phrases of a pattern with {a|b} alternatives."""
    pieces = _BRACES.split(pattern)
    for chosen in itertools.product(*[p.split("|") if i % 2 else (p,) for i, p in enumerate(pieces)]):
        yield "".join(chosen)


@functools.cache
def _lexicon() -> tuple[PhraseTable, list[Kind]]:
    """The table of cues, and the kinds that its payloads index; read on the first use."""
    from medvllm_kernels.text import PhraseTable

    kinds: dict[str, int] = {}
    payloads: dict[str, int] = {}
    lines = (Path(__file__).parent / "data" / "assertion_cues.tsv").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            effects, pattern = line.split("\t")
            number = kinds.setdefault(effects, len(_MARKS) + len(kinds))
            for phrase in _expand(pattern):
                payloads.setdefault(phrase, number)
    return PhraseTable.from_phrases(payloads.items()), [*_MARKS, *map(_kind, kinds)]


# Cues that are no phrases. Each pattern begins with a literal or a small set, which the search skips to.
_QUESTION = re.compile(r"\?+(?P<query>(?<![^\s(,;:?]\?)\s?(?=[A-Za-z]))?")
_SIGN = re.compile(r"[(+-](?:[-+]\)|ve\b|VE\b|(?<=(?<!\S)\+)(?=\s?[A-Za-z]))")
_YEAR = re.compile(r"(?:19|20)\d\d(?:\b|(?=s\b))")
_IN_YEAR = re.compile(
    r"(?:\(|\bin\s(?:the\s)?(?:(?:early|late|mid|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[\s-](?:of\s)?)?)\Z",
    re.IGNORECASE,
)
_ITEM = re.compile(r"\d\)(?=\s?[A-Za-z])")
# Their kinds: the first numbers of all; no phrase has the number 0.
_STOP, _MAYBE_BEFORE, _MAYBE_AFTER, _MINUS, _IN_THE_PAST = range(5)
_MARKS = (
    _kind("stop"),
    _kind("pos>np"),
    Kind(backward=((POS, ADJACENT),)),
    _kind("neg>"),
    _kind("hist<np"),
)


def _marks(text: str) -> Iterator[tuple[int, int, int]]:
    """Question marks before or after a finding, (-) and -ve, (+) and +, years, list numbers such as "2)"."""
    if "?" in text:
        for match in _QUESTION.finditer(text):
            start, end = match.span()
            leading = match["query"] is not None and (start == 0 or text[start - 1] in " \t\r\n(,;:")
            yield (start, end, _MAYBE_BEFORE if leading else _MAYBE_AFTER)
    if "+" in text or "(-)" in text or "-ve" in text or "-VE" in text:
        for match in _SIGN.finditer(text):
            start, end = match.span()
            if text[start] == "(" or start == 0 or text[start - 1].isspace():
                yield (start, end, _MINUS if "-" in match[0] else _STOP)
    for century in ("19", "20"):
        at = text.find(century)
        while at >= 0:
            if at and (text[at - 1] in "(-" or text[at - 1].isspace()) and (year := _YEAR.match(text, at)) is not None:
                low = max(0, at - 20)
                lead = _IN_YEAR.search(text[low:at])
                if lead is not None:
                    yield (low + lead.start(), year.end(), _IN_THE_PAST)
            at = text.find(century, at + 2)
    at = text.find(")", 1)
    while at >= 0:
        if text[at - 1].isdecimal() and _ITEM.match(text, at - 1) is not None:
            yield (at - 1, at + 1, _STOP)
        at = text.find(")", at + 1)


def cue_kinds() -> list[Kind]:
    """The kinds that the third numbers of cue_array index."""
    return _lexicon()[1]


def cue_array(text: str) -> array[int]:
    """start, end and number of the kind of each cue: first the phrases, then the others, which may overlap them."""
    flat = _lexicon()[0].find_flat(text)
    flat.extend(itertools.chain.from_iterable(_marks(text)))
    return flat


def find_cues(text: str) -> list[Cue]:
    """The cues of the text in order; of two that overlap, the one that starts first."""
    kinds = cue_kinds()
    flat = cue_array(text).tolist()
    cues: list[Cue] = []
    reached = 0
    for start, end, number in sorted(zip(flat[0::3], flat[1::3], flat[2::3], strict=True), key=itemgetter(0)):
        if start >= reached:
            cues.append(Cue(start, end, kinds[number]))
            reached = end
    return cues
