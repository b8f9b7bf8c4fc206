"""From what a model says of each token to spans of characters."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from medvllm.tasks.model_ner_windows import TextTokens

if TYPE_CHECKING:
    import torch

__all__ = [
    "AGGREGATIONS",
    "DECODINGS",
    "Aggregation",
    "Decoding",
    "RawSpan",
    "Units",
    "aggregate",
    "best_labels",
    "confidences",
    "decode",
    "group",
]

Aggregation = Literal["first", "average", "max", "simple"]
AGGREGATIONS = ("first", "average", "max", "simple")
Decoding = Literal["greedy", "viterbi"]
DECODINGS = ("greedy", "viterbi")


class RawSpan(NamedTuple):
    """Characters [start, end) of an entity, the model's name of its type, and its units [first, last].

    `label` is the label of its first unit.
    """

    start: int
    end: int
    name: str
    label: int
    first: int
    last: int


class Units(NamedTuple):
    """What gets one label each, words or tokens: characters [start, end), and the tokens [first, last)."""

    starts: list[int]
    ends: list[int]
    firsts: list[int]
    lasts: list[int]


def group(tokens: TextTokens, aggregation: Aggregation) -> Units:
    """The words of a text, or its tokens where `aggregation` is simple. White space is no word, but may be a token."""
    units = Units([], [], [], [])
    simple = aggregation == "simple"
    last_word = None
    for at, (start, end, word) in enumerate(zip(tokens.starts, tokens.ends, tokens.words, strict=True)):
        if start == end and not simple:
            continue
        shared = bool(units.ends) and start < units.ends[-1]  # two tokens can be parts of one character
        if shared or (word == last_word and not simple):
            units.ends[-1] = max(units.ends[-1], end)
            units.lasts[-1] = at + 1
        else:
            units.starts.append(start)
            units.ends.append(end)
            units.firsts.append(at)
            units.lasts.append(at + 1)
        last_word = word
    return units


def aggregate(logits: torch.Tensor, units: Units, aggregation: Aggregation) -> torch.Tensor:
    """(tokens, labels) → (units, labels) logits of each unit.

    first: those of its first token; average: the logarithm of its tokens' mean probabilities; max: those of the token
    that is surest of a label.
    """
    import torch

    firsts = torch.tensor(units.firsts, dtype=torch.int64)
    if aggregation in ("first", "simple") or len(units.firsts) == logits.shape[0]:
        return logits[firsts]
    lasts = torch.tensor(units.lasts, dtype=torch.int64)
    probabilities = logits.float().softmax(-1)
    if aggregation == "average":
        sums = torch.cat([probabilities.new_zeros(1, probabilities.shape[1]), probabilities.double().cumsum(0)])
        means = (sums[lasts] - sums[firsts]) / (lasts - firsts)[:, None]
        return means.clamp_min(1e-12).log().to(logits.dtype)
    surest = probabilities.amax(-1).tolist()
    chosen = [
        max(range(first, last), key=surest.__getitem__) for first, last in zip(units.firsts, units.lasts, strict=True)
    ]
    return logits[torch.tensor(chosen, dtype=torch.int64)]


def best_labels(logits: torch.Tensor, tags: Sequence[str], names: Sequence[str], decoding: Decoding) -> list[int]:
    """The label of each unit. greedy: its most probable one; viterbi: of the most probable sequence that keeps to the
    scheme, in which I and E follow B or I of their type, and in a scheme with E what is begun is ended.
    """
    greedy: list[int] = logits.argmax(-1).tolist()
    if decoding == "greedy" or not greedy:
        return greedy
    before = _allowed_before(tags, names)
    first = [tag not in "IE" for tag in tags]
    last = [tag not in "BI" or "E" not in tags for tag in tags]
    if (
        first[greedy[0]]
        and last[greedy[-1]]
        and all(left in before[right] for left, right in itertools.pairwise(greedy))
    ):
        return greedy  # allowed, so the best of all
    rows: list[list[float]] = logits.float().log_softmax(-1).tolist()
    score = [value if good else -math.inf for value, good in zip(rows[0], first, strict=True)]
    came_from: list[list[int]] = []
    for row in rows[1:]:
        best = [max(lefts, key=score.__getitem__) for lefts in before]
        score = [score[left] + value for left, value in zip(best, row, strict=True)]
        came_from.append(best)
    score = [value if good else -math.inf for value, good in zip(score, last, strict=True)]
    path = [max(range(len(score)), key=score.__getitem__)]
    for best in reversed(came_from):
        path.append(best[path[-1]])
    return path[::-1]


@functools.lru_cache(maxsize=8)
def _allowed(tags: tuple[str, ...], names: tuple[str, ...]) -> list[list[int]]:
    ends = "E" in tags

    def may_follow(left: int, right: int) -> bool:
        inside = tags[right] in "IE"
        begun = tags[left] in "BI"
        if inside:
            return begun and names[left] == names[right]
        return not (begun and ends)

    count = range(len(tags))
    # what nothing may stand before cannot be reached: it follows itself, and can be no beginning
    return [[left for left in count if may_follow(left, right)] or [right] for right in count]


def _allowed_before(tags: Sequence[str], names: Sequence[str]) -> list[list[int]]:
    """For each label those that may stand before it."""
    return _allowed(tuple(tags), tuple(names))


def decode(labels: Sequence[int], units: Units, tags: Sequence[str], names: Sequence[str]) -> list[RawSpan]:
    """Spans of units whose labels follow each other: B and S begin one, E and S end it, I goes on with one of its type.

    A tag that does not fit what is before it (I after O, or after another type) begins a span.
    """
    spans: list[RawSpan] = []
    open_at = -1
    previous = -2
    for at, label in enumerate(labels):
        tag = tags[label]
        if tag == "O":
            continue
        goes_on = tag in "IE" and open_at >= 0 and previous == at - 1 and spans[-1].name == names[label]
        if goes_on:
            end = units.ends[at] if units.ends[at] > units.starts[at] else spans[-1].end  # not with white space
            spans[-1] = spans[-1]._replace(end=end, last=at)
        else:
            spans.append(RawSpan(units.starts[at], units.ends[at], names[label], label, at, at))
        open_at = -1 if tag in "ES" else at
        previous = at
    return [span for span in spans if span.start < span.end]


def confidences(
    logits: torch.Tensor, labels: Sequence[int], spans: Sequence[RawSpan], *, temperature: float
) -> list[float]:
    """The probability of each span: the least of its units' probabilities of their labels, with softened logits.

    The unit after a span counts too, whose label says that the span goes on no further.
    """
    import torch

    if not spans:
        return []
    chosen = torch.tensor(labels, dtype=torch.int64)[:, None]
    values = torch.softmax(logits.float() / temperature, dim=-1).gather(1, chosen).flatten().tolist()
    return [min(values[span.first : span.last + 2]) for span in spans]
