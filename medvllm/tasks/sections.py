"""Where the sections and the sentences of a clinical note begin and end, in time linear in the text."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from medvllm_kernels.sections import Layout

__all__ = ["Section", "find_sections", "headings", "layout", "section_names", "split_sentences"]


class Section(NamedTuple):
    """text[start:end] with its heading; `name` is one of section_names(), or None."""

    start: int
    end: int
    name: str | None


@functools.cache
def headings() -> dict[str, str]:
    """Heading in lower case → name; read on the first use."""
    names: dict[str, str] = {}
    path = Path(__file__).parent / "data" / "section_headings.tsv"
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, listed = line.split("\t")
            names.update(dict.fromkeys(listed.split("; "), name))
    return names


@functools.cache
def layout() -> Layout:
    """What finds sections and sentences; made on the first use."""
    from medvllm_kernels.sections import Layout

    return Layout(headings())


def section_names() -> tuple[str, ...]:
    """The names that a Section may have."""
    return tuple(dict.fromkeys(headings().values()))


def find_sections(text: str) -> list[Section]:
    """The sections in order, covering the text; [] for an empty one. The rules are those of Layout.sections."""
    return [Section(*section) for section in layout().sections(text)]


def split_sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of the sentences in order, without surrounding white space, by the rules of Layout.sentences."""
    return layout().sentences(text)
