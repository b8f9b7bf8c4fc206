"""Lists with a finding a line: the model, which knows no lines, reads several of them as one mention."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from medvllm.ontology.writer import TYPE_SHIFT
from medvllm.tasks.detection import Mention
from medvllm.tasks.entities import ENTITY_TYPES

__all__ = ["split_lists"]

_BREAK = re.compile(r"[ \t\r]*\n[ \t\r]*")
_LISTED = frozenset({"condition", "symptom", "medication", "chemical"})


def split_lists(text: str, mentions: Sequence[Mention], phrases: Iterable[tuple[int, int, int]]) -> Sequence[Mention]:
    """The mentions; one that holds the end of a line between two phrases that could be items of a list is cut there.

    `phrases` are (start, end, payload), none overlapping. One that goes on over the end of a line ("pressure\\nulcers")
    stays whole, as does a mention that has no such phrase on either side ("acute\\nmyocarditis", "colon\\ncancer").
    """
    if not [True for mention in mentions if "\n" in text[mention[0] : mention[1]]]:  # half the time of any(…)
        return mentions
    starts = {start: (end, payload) for start, end, payload in phrases}
    items = {start: end for start, (end, payload) in starts.items() if _type(payload) in _LISTED}
    ends = frozenset(items.values())
    out: list[Mention] = []
    for mention in mentions:
        at = mention.start
        for found in _BREAK.finditer(text, mention.start, mention.end):
            if found.start() in ends and found.end() in items:
                out.append(_piece(mention, at, found.start(), starts))
                at = found.end()
        out.append(mention if at == mention.start else _piece(mention, at, mention.end, starts))
    return out


def _type(payload: int) -> str | None:
    code = payload >> TYPE_SHIFT & 15
    return ENTITY_TYPES[code - 1] if code else None


def _piece(mention: Mention, start: int, end: int, starts: dict[int, tuple[int, int]]) -> Mention:
    """A piece of the mention, with type and term of the phrase that it is, if it is one."""
    phrase_end, payload = starts.get(start, (-1, 0))
    if phrase_end != end:
        return mention._replace(start=start, end=end, term=None)
    return mention._replace(start=start, end=end, type=_type(payload) or mention.type, term=payload)
