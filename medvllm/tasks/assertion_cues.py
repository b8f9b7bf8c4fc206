"""The cues of assertion: read from data/assertion_cues.tsv, found in a text."""

from __future__ import annotations

import functools
import itertools
import re
from array import array
from collections.abc import Generator, Iterator, Sequence
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
# What ends the clause of a cue: a mark, a conjunction or a time, or a line that does not go on in lower case.
_ENDS = re.compile(
    r"[ \t]*(?:[.;,)\]]|\Z|(?<=[a-z])\r?\n\s*(?:[A-Z\d*•-]|\Z)|"
    r"(?<=\s)(?i:but|given|though|although|however|based|for|x|since|today|now|at|this)\b)"
)


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


def _kind(effects: Sequence[str]) -> Kind:
    """The meaning of the effects in the first column of the cue file."""
    forward: list[tuple[int, int]] = []
    backward: list[tuple[int, int]] = []
    stop = person = gender = ""
    for effect in effects:
        head, _, tail = effect.partition(".")
        if head in ("stop", "clause"):
            stop = tail or "all"
        elif head in ("person", "other"):
            person, gender = ("family" if head == "person" else "other"), tail
        elif effect.endswith("=adj"):
            name = effect.removesuffix("=adj")
            (backward if name.endswith("<") else forward).append((_DIMENSIONS[name.rstrip("<")], ADJACENT))
        elif effect != "pseudo":
            direction = ">" if ">" in effect else "<"
            name, reach = effect.split(direction)
            (forward if direction == ">" else backward).append((_DIMENSIONS[name], _REACH[reach]))
    return Kind(tuple(forward), tuple(backward), stop, person, gender, list(effects) == ["pseudo"])


_BRACES = re.compile(r"\{([^{}]*)\}")


def _expand(pattern: str) -> Iterator[str]:
    """The phrases of a pattern with {a|b} alternatives."""
    pieces = _BRACES.split(pattern)
    for chosen in itertools.product(*[p.split("|") if i % 2 else (p,) for i, p in enumerate(pieces)]):
        yield " ".join("".join(chosen).split())


class _Lexicon(NamedTuple):
    table: PhraseTable  # phrase → number of its kind
    kinds: list[Kind]
    at_end: dict[int, int]  # number of a kind → that of what it becomes where the cue ends its clause
    both: dict[int, int]  # number of a kind → that of what it also does backward, whatever it finds ahead


@functools.cache
def _lexicon() -> _Lexicon:
    """The cues; read on the first use."""
    from medvllm_kernels.text import PhraseTable

    kinds = list(_MARKS)
    at_end: dict[int, int] = {}
    both: dict[int, int] = {}
    numbers: dict[str, int] = {}
    payloads: dict[str, int] = {}
    lines = (Path(__file__).parent / "data" / "assertion_cues.tsv").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if not line or line.startswith("#"):
            continue
        effects, pattern = line.split("\t")
        if effects not in numbers:
            number = numbers[effects] = len(kinds)
            listed = effects.split()
            kinds.append(_kind([effect for effect in listed if "<end" not in effect and "<<" not in effect]))
            for variants, mark, meant in ((at_end, "<end", "<=adj"), (both, "<<", "<")):
                special = [effect.replace(mark, meant) for effect in listed if mark in effect]
                if special:
                    variants[number] = len(kinds)
                    kinds.append(_kind(special))
        for phrase in _expand(pattern):
            payloads.setdefault(phrase, numbers[effects])
    return _Lexicon(PhraseTable.from_phrases(payloads.items()), kinds, at_end, both)


# Cues that are no phrases. Each pattern begins with a literal or a small set, which the search skips to.
_QUESTION = re.compile(r"\?+(?P<query>(?<![^\s(,;:?]\?)\s?(?=[A-Za-z]))?")
_SIGN = re.compile(r"[(+-](?:[-+]\)|ve\b|VE\b|(?<=(?<!\S)\+)(?=\s?[A-Za-z]))")
_YEAR = re.compile(r"(?:19|20)\d\d(?:\b|(?=s\b))")
_IN_YEAR = re.compile(
    r"(?:\(|\bin\s(?:the\s)?(?:(?:early|late|mid|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[\s-](?:of\s)?)?)\Z",
    re.IGNORECASE,
)
# "-cough" in a line with "+fever" is a denial; elsewhere the hyphen begins an item of a list.
_DENIAL = re.compile(r"(?<=[\s,(])-(?=[A-Za-z])")
# "Should" at the beginning of a clause: "Should fever recur, call".
_AT_CLAUSE = re.compile(r"[.;:\n][ \t]*(?:[-*•][ \t]*)?\Z")
_ITEM = re.compile(r"\d\)(?=\s?[A-Za-z])")
# Their kinds: the first numbers of all; no phrase has the number 0.
_STOP, _MAYBE_BEFORE, _MAYBE_AFTER, _MINUS, _IN_THE_PAST, _SHOULD = range(6)
_MARKS = (
    _kind(["stop"]),
    _kind(["pos>np"]),
    _kind(["pos<=adj"]),
    _kind(["neg>"]),
    _kind(["hist<np"]),
    _kind(["hypo>"]),
)


def _marks(text: str) -> Iterator[tuple[int, int, int]]:
    """Question marks, (-) and -ve, (+) and +, -cough beside +fever, years, numbers such as "2)", a first Should."""
    if "?" in text:
        for match in _QUESTION.finditer(text):
            start, end = match.span()
            leading = match["query"] is not None and (start == 0 or text[start - 1] in " \t\r\n(,;:")
            yield (start, end, _MAYBE_BEFORE if leading else _MAYBE_AFTER)
    listed = 0  # up to here lines with "+fever" were searched for "-cough"
    if "+" in text or "(-)" in text or "-ve" in text or "-VE" in text:
        for match in _SIGN.finditer(text):
            start, end = match.span()
            if text[start] == "(" or start == 0 or text[start - 1].isspace():
                yield (start, end, _MINUS if "-" in match[0] else _STOP)
                if match[0] == "+" and start >= listed:
                    listed = yield from _denials(text, start)
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
    at = text.find("Should")
    while at >= 0:
        if at == 0 or _AT_CLAUSE.search(text[max(0, at - 6) : at]) is not None:
            yield (at, at + 6, _SHOULD)
        at = text.find("Should", at + 6)


def _denials(text: str, plus: int) -> Generator[tuple[int, int, int], None, int]:
    """The minus signs of the line with the plus sign at `plus`; returns the end of the line."""
    start = text.rfind("\n", 0, plus) + 1
    end = text.find("\n", plus)
    end = len(text) if end < 0 else end
    while text[start].isspace():  # a hyphen at the beginning of the line is the mark of an item
        start += 1
    for match in _DENIAL.finditer(text, start + 1, end):
        yield (*match.span(), _MINUS)
    return end


def cue_kinds() -> list[Kind]:
    """The kinds that the third numbers of cue_array index."""
    return _lexicon().kinds


def cue_array(text: str) -> array[int]:
    """start, end and number of the kind of each cue: first the phrases, then the others, which may overlap them."""
    lexicon = _lexicon()
    flat = lexicon.table.find_flat(text)
    for at in range(2, len(flat), 3):
        number = flat[at]
        if number in lexicon.at_end:
            if _ENDS.match(text, flat[at - 1]) is not None:
                flat[at] = lexicon.at_end[number]
        elif number in lexicon.both and flat[at - 2] and not text[flat[at - 2] - 1].isalnum():
            flat.extend((flat[at - 2] - 1, flat[at - 2], lexicon.both[number]))  # stands just before the cue
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
