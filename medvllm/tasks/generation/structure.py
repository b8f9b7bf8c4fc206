"""What form a text has: paragraphs, list items, headings, the four parts of a SOAP note, questions and answers."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["structure_report"]

_BULLET = re.compile(r"^[ \t]*[-*•–][ \t]+\S", re.M)
_STEP = re.compile(r"^[ \t]*(?:step )?\d{1,2}[.):][ \t]*\S", re.M | re.I)
_HEADING = re.compile(r"^[ \t]*(?:#{1,6}[ \t]+\S.*|\*\*[^*\n]{1,60}\*\*:?|(?:[A-Z][\w&/,' -]{1,50}):)[ \t]*$", re.M)
_SOAP = {
    part: re.compile(
        rf"^[ \t]*(?:#{{1,6}}[ \t]+|\*\*)?(?:{part}|{part[0].upper()}(?=[ \t]*[:)]))\b[ \t*]*[:\n)]", re.M | re.I
    )
    for part in ("subjective", "objective", "assessment", "plan")
}
_QUESTION = re.compile(r"^[ \t*]*(?:Q(?:uestion)?[ \t]?\d*[.:)]|[^\n]{3,200}\?[ \t*]*$)", re.M)
_ANSWER = re.compile(r"^[ \t*]*A(?:nswer)?[ \t]?\d*[.:)]", re.M)


def structure_report(text: str, requested: str | None) -> dict[str, Any]:
    """What was found, counted, and whether it is what was asked for (`met`; None where nothing was)."""
    blocks = [block for block in re.split(r"\n[ \t]*\n", text.strip()) if block.strip()]
    paragraphs = [block for block in blocks if not _is_list_or_heading(block)]
    soap = [part for part, pattern in _SOAP.items() if pattern.search(text)]
    found: dict[str, Any] = {
        "paragraphs": len(paragraphs),
        "bullets": len(_BULLET.findall(text)),
        "steps": len(_STEP.findall(text)),
        "headings": len(_HEADING.findall(text)),
        "soap_headings": soap,
        "questions": len(_QUESTION.findall(text)),
        "answers": len(_ANSWER.findall(text)),
    }
    return {"requested": requested, "met": None if requested is None else _met(requested, found), "found": found}


def _is_list_or_heading(block: str) -> bool:
    """Whether every line of a block is a list item or a heading."""
    lines = [line for line in block.splitlines() if line.strip()]
    return all(_BULLET.match(line) or _STEP.match(line) or _HEADING.match(line) for line in lines)


def _met(requested: str, found: dict[str, Any]) -> bool:
    plain = not found["bullets"] and not found["steps"] and not found["headings"]
    answer: dict[str, bool] = {
        "paragraph": found["paragraphs"] == 1 and plain,
        "paragraphs": found["paragraphs"] >= 2 and plain,
        "bullets": found["bullets"] >= 2,
        "steps": found["steps"] >= 2,
        "soap": len(found["soap_headings"]) == len(_SOAP),
        "sections": found["headings"] >= 2,
        "qa": found["questions"] >= 1 and found["answers"] >= 1,
    }
    return answer[requested]
