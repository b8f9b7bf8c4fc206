"""How far the cues of one sentence reach: the Python twin of native/scopes.cc."""

from __future__ import annotations

import functools
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from medvllm.tasks.assertion_cues import ADJACENT, CLAUSE, FAM, HIST, HYPO, NEG, OTH, POS, REC, Cue

__all__ = ["PLAIN", "Assertion", "Sentence", "Span", "meeting"]

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Assertion:
    """What the text says of a span.

    The cues are the (start, end) of the phrases that decided; None where the default or the section did.
    """

    negation: str = "affirmed"  # affirmed | negated | possible
    temporality: str = "recent"  # recent | historical | hypothetical
    experiencer: str = "patient"  # patient | family | other
    negation_cue: Span | None = None
    temporality_cue: Span | None = None
    experiencer_cue: Span | None = None


PLAIN = Assertion()


class _Scope(NamedTuple):
    """A cue in force: where it stands and how far it reaches."""

    start: int
    end: int
    reach: int


_SEPARATED = re.compile(r"[,;:]|\bwith\b")
_NP_LIMIT = 60  # characters between a noun phrase's cue and the span
_BACK_LIMIT = 100
_ALONE = re.compile(r"\s*(?:[.;,)\]]|\Z)")
_CHECKED = re.compile(r"(?:[:?(=]|\s[-–])\s*\Z")
_BARE_GAP = re.compile(r"[\s:?()=–-]*\Z")
# What a person says or does that makes him the source of the finding, not its bearer.
_REPORTS = (
    r"\s+(?:who\s+|also\s+|then\s+)*(?:reports?|reported|states?|stated|says?|said|notes?|noted|notic\w+|denie[sd]|denying|"
    r"thinks?|thought|believes?|describe[sd]?|called|calls|brought|gave|gives|found|saw|is\s+(?:concerned|worried|here|"
    r"present|at|with)|was\s+(?:concerned|worried|present|informed|told|called|at)|worried|concerned|concerns|feels|felt|"
    r"endorses|provide[sd]?|translat\w+|of\s+(?:two|three|four|\d)|and\s+(?:father|mother)\s+(?:report|state)s?)\b"
)
_BEARS = (
    r"(?:\s+also)?\s*(?:[:(–-]|,\s+who\s+(?:has|had|died|suffer\w*|(?:was|is)\s+diagnosed)\b|\s(?:with|has|had|have|who\s+(?:has|had|died)|died|suffer\w*|diagnosed|"
    r"(?:was|is|were)\s+diagnosed|deceased|passed)\b)"
)
_SOURCE = (
    r"(?:\b(?:by|per|from|to|and|via|with|contact|tell|told|of|for)|\bhistory from)\s+"
    r"(?:(?:his|her|the|their|my|your|a|patient'?s|pt'?s)\s+)*\Z"
)
_BEARER_AFTER = (
    r"(?:\b(?:in|among|affecting)\s+(?:(?:his|her|the|their|a|one|both|two|multiple|maternal|paternal|several|"
    r"patient'?s)\s+)*|[(:–-]\s*(?:maternal\s+|paternal\s+)?)\Z"
)


@functools.cache
def _pattern(source: str) -> re.Pattern[str]:
    """Compiled on the first use: most texts name no relative, and compiling these four takes 10 ms."""
    return re.compile(source, re.IGNORECASE)


_NOBODY, _BEARER_AHEAD, _BEARER_BEHIND, _MENTIONED = range(4)  # the same numbers stand in native/scopes.cc


def meeting(text: str, start: int, end: int, limit: int) -> int:
    """What the person named at [start, end), in a sentence that ends at `limit`, is there."""
    before = text[max(0, start - 40) : start]
    if _pattern(_REPORTS).match(text, end, limit):
        return _NOBODY
    if _pattern(_BEARS).match(text, end, limit):
        return _BEARER_AHEAD
    if _pattern(_BEARER_AFTER).search(before):
        return _BEARER_BEHIND
    return _MENTIONED if _pattern(_SOURCE).search(before) else _BEARER_AHEAD


class Sentence:
    """The cues of one sentence, and the scopes that are open while its spans are walked through."""

    def __init__(self, text: str, end: int, cues: list[Cue], default: tuple[str, str]) -> None:
        self.text = text
        self.end = end
        self.cues = cues
        self.default = default
        self.open: list[_Scope | None] = [None] * 8  # slot 2 * dimension + (reach is a noun phrase)
        self.person: tuple[str, Span, str] | None = None  # experiencer, cue, gender
        self.bearers: list[tuple[int, int, str]] = []  # (start, end, experiencer) of "… in his mother", by start
        self.recent = False  # a cue of the present cancels the section's default
        self.patient = False  # a clause about the patient does so for the experiencer
        self.checked: dict[int, bool] = {}  # start of a negation → it answers the label before it ("Fever: no")
        self.used: set[int] = set()  # starts of cues of both directions that have found a span ahead

    def assess(self, spans: Sequence[Span], order: list[int], out: list[Assertion]) -> None:
        """Set out[i] for the spans of this sentence; `order` holds their numbers by start."""
        ahead: list[tuple[_Scope | None, int, Span | None, Span | None, tuple[str, Span | None]]] = []
        cues, at, count = self.cues, 0, len(self.cues)
        for number in order:
            start, end = spans[number]
            while at < count and cues[at].end <= start:
                self._advance(cues[at])
                at += 1
            ahead.append(self._forward(start, end, cues[at] if at < count else None))
        while at < count:
            cue = cues[at]
            if cue.kind.person:
                self._meet(cue)
            elif (FAM, CLAUSE) in cue.kind.backward:
                self.bearers.append((cue.start, cue.end, "family"))
            elif (NEG, CLAUSE) in cue.kind.forward:
                self._answers_label(cue)
            at += 1
        behind = self._backward([spans[number] for number in order])
        for number, front, back in zip(order, ahead, behind, strict=True):
            out[number] = self._combine(spans[number], front, back)

    def _advance(self, cue: Cue) -> None:
        """Pass a cue on the way forward: open and close scopes."""
        kind = cue.kind
        if kind.stop:
            self._stop(kind.stop)
            return
        if kind.person:
            self._meet(cue)
            return
        if (FAM, CLAUSE) in kind.backward:
            self.bearers.append((cue.start, cue.end, "family"))
        slots = self.open
        for dimension, reach in kind.forward:
            if dimension == REC:
                slots[2 * HIST] = slots[2 * HIST + 1] = None
                self.recent = True
            elif dimension in (FAM, OTH):
                self.person = ("family" if dimension == FAM else "other", (cue.start, cue.end), "")
            elif (dimension == NEG and self._answers_label(cue)) or (dimension == POS and self._denied(cue)):
                continue
            else:
                slots[2 * dimension + (reach != CLAUSE)] = _Scope(cue.start, cue.end, reach)
                if dimension == HIST:
                    self.recent = False
                elif dimension in (NEG, POS) and reach == CLAUSE:
                    other = 2 * (POS if dimension == NEG else NEG)
                    slots[other] = slots[other + 1] = None

    def _stop(self, stop: str) -> None:
        slots = self.open
        slots[0] = slots[1] = slots[2] = slots[3] = None
        if stop == "neg":
            return
        slots[4] = slots[5] = None
        if stop == "np":
            return
        slots[6] = slots[7] = None
        if stop in ("he", "she", "they"):
            same = self.person is not None and self.person[2] == {"he": "m", "she": "f", "they": "-"}[stop]
            if not same:
                self.person = None
                self.patient = stop == "they"

    def _meet(self, cue: Cue) -> None:
        """A relative or another person: the bearer of what follows, of what precedes, or only a source."""
        kind, span = cue.kind, (cue.start, cue.end)
        met = meeting(self.text, cue.start, cue.end, self.end)
        if met == _NOBODY:
            self.person = None
        elif met == _BEARER_AHEAD:
            self.person = (kind.person, span, kind.gender)
        elif met == _BEARER_BEHIND:
            self.bearers.append((cue.start, cue.end, kind.person))

    def _answers_label(self, cue: Cue) -> bool:
        """Whether a lone "no" answers the label before it, as in "Fever: no"."""
        answers = (
            cue.end - cue.start <= 8
            and (
                _ALONE.match(self.text, cue.end, self.end) is not None
                or self.text[cue.start : cue.end].lower() in ("none", "nil")
            )
            and (
                self.text[cue.start] == "(" or _CHECKED.search(self.text[max(0, cue.start - 4) : cue.start]) is not None
            )
        )
        self.checked[cue.start] = answers
        return answers

    def _denied(self, cue: Cue) -> bool:
        """Whether a negation just before covers this possibility: "no signs of possible infection"."""
        negation = self.open[0]
        if negation is None or cue.start - negation.end > 25:
            return False
        return not any(mark in self.text[negation.end : cue.start] for mark in ",;:")

    def _forward(
        self, start: int, end: int, following: Cue | None
    ) -> tuple[_Scope | None, int, Span | None, Span | None, tuple[str, Span | None]]:
        """(polarity's scope, its dimension, historical cue, hypothetical cue, experiencer) of a span, from before."""
        slots = self.open
        polarity: _Scope | None = None
        dimension = NEG
        for slot in range(4):
            scope = slots[slot]
            if scope is not None and (polarity is None or scope.start > polarity.start) and self._reaches(scope, start):
                polarity, dimension = scope, slot >> 1
        if following is not None and following.start < start and self._negates_overlapped(following):
            polarity, dimension = _Scope(following.start, start, CLAUSE), NEG
        if polarity is not None:
            self.used.add(polarity.start)
        temporal: list[Span | None] = []
        for slot in (4, 6):
            found = None
            for scope in (slots[slot], slots[slot + 1]):
                if scope is not None and self._reaches(scope, start):
                    found = (scope.start, scope.end)
            temporal.append(found)
        if (
            following is not None
            and following.start == start
            and following.end < end
            and any(dimension == HIST for dimension, _ in following.kind.forward)
        ):
            # "status post CABG" as one finding
            temporal[0] = (following.start, following.end)
        bearer: tuple[str, Span | None] = ("patient", None)
        if self.person is not None:
            bearer = (self.person[0], self.person[1])
        elif not self.patient:
            bearer = (self.default[1], None)
        if temporal[0] is None and self.default[0] == "historical" and not self.recent:
            temporal[0] = (-1, -1)
        return polarity, dimension, temporal[0], temporal[1], bearer

    def _negates_overlapped(self, cue: Cue) -> bool:
        """Whether a cue that reaches into a span negates it: "no change" before the span "change in vision"."""
        kind = cue.kind
        return (NEG, CLAUSE) in kind.forward or (
            kind.pseudo and self.text[cue.start : cue.start + 2].lower() in ("no", "wi")
        )

    def _reaches(self, scope: _Scope, start: int) -> bool:
        """Whether a forward scope reaches a span's start."""
        if scope.reach == CLAUSE:
            return True
        gap = start - scope.end
        if scope.reach == ADJACENT:
            return gap <= 1
        return gap <= _NP_LIMIT and _SEPARATED.search(self.text, scope.end, start) is None

    def _backward(self, spans: list[Span]) -> list[tuple[_Scope | None, int, Span | None, Span | None]]:
        """Of each span: (polarity's scope, its dimension, historical cue, hypothetical cue), from behind it."""
        found: list[tuple[_Scope | None, int, Span | None, Span | None]] = [(None, NEG, None, None)] * len(spans)
        if not any(cue.kind.backward or self.checked.get(cue.start) for cue in self.cues):
            return found
        slots: list[_Scope | None] = [None] * 4
        at = len(self.cues) - 1
        for number in sorted(range(len(spans)), key=lambda n: -spans[n][1]):
            end = spans[number][1]
            while at >= 0 and self.cues[at].start >= end:
                self._retreat(self.cues[at], slots)
                at -= 1
            polarity, dimension = None, NEG
            for slot in (NEG, POS):
                scope = slots[slot]
                if scope is not None and (polarity is None or scope.start < polarity.start) and self._back(scope, end):
                    polarity, dimension = scope, slot
            past, maybe = slots[HIST], slots[HYPO]
            found[number] = (
                polarity,
                dimension,
                (past.start, past.end) if past is not None and self._back(past, end) else None,
                (maybe.start, maybe.end) if maybe is not None and self._back(maybe, end) else None,
            )
        return found

    def _retreat(self, cue: Cue, slots: list[_Scope | None]) -> None:
        """Pass a cue on the way backward."""
        kind = cue.kind
        if self.checked.get(cue.start):
            slots[NEG], slots[POS] = _Scope(cue.start, cue.end, ADJACENT), None
        elif kind.backward:
            if cue.start in self.used and kind.forward:
                return
            for dimension, reach in kind.backward:
                if dimension <= HYPO:
                    slots[dimension] = _Scope(cue.start, cue.end, reach)
                    if dimension in (NEG, POS):
                        slots[POS if dimension == NEG else NEG] = None
        elif kind.stop:
            slots[NEG] = slots[POS] = None
            if kind.stop not in ("np", "neg"):
                slots[HIST] = slots[HYPO] = None
        elif any(dimension in (NEG, POS) for dimension, _ in kind.forward):
            slots[NEG] = slots[POS] = None

    def _back(self, scope: _Scope, end: int) -> bool:
        """Whether a backward scope reaches a span's end."""
        gap = scope.start - end
        if scope.reach == CLAUSE:
            return True
        if gap > _BACK_LIMIT:
            return False
        between = self.text[end : scope.start]
        if scope.reach == ADJACENT:
            return _BARE_GAP.match(between) is not None
        if not between.strip(" \t\r\n,(-"):
            return True  # "obstruction, resolved"
        return not ("," in between or ";" in between or ":" in between)

    def _combine(
        self,
        span: Span,
        front: tuple[_Scope | None, int, Span | None, Span | None, tuple[str, Span | None]],
        back: tuple[_Scope | None, int, Span | None, Span | None],
    ) -> Assertion:
        """The nearer of the polarities; the hypothetical before the historical; a bearer behind before one ahead."""
        before, before_dimension, past, hypothetical, bearer = front
        after, after_dimension, past_after, hypothetical_after = back
        scope, dimension = before, before_dimension
        if after is not None and (before is None or after.start - span[1] < span[0] - before.end):
            scope, dimension = after, after_dimension
        negation = "affirmed" if scope is None else ("negated", "possible")[dimension]
        hypothetical = hypothetical or hypothetical_after
        past = past_after or past
        time = "hypothetical" if hypothetical else "historical" if past else "recent"
        time_cue = hypothetical or past
        if self.bearers and (bearer[1] is None or bearer[1][0] < span[0]):
            at = bisect_left(self.bearers, (span[1], 0, ""))
            if at < len(self.bearers) and self.bearers[at][0] - span[1] <= _NP_LIMIT:
                bearer = (self.bearers[at][2], self.bearers[at][:2])
        if scope is None and time == "recent" and bearer == ("patient", None):
            return PLAIN
        return Assertion(
            negation,
            time,
            bearer[0],
            None if scope is None else (scope.start, scope.end),
            None if time_cue is None or time_cue[0] < 0 else time_cue,
            bearer[1],
        )
