from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvllm.tasks.entities import ENTITY_TYPES, Entity, OntologyLink
from medvllm.tasks.formats import Document, render
from medvllm.tasks.formats.html import COLORS, html_page, to_html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = '<script>document.title="owned"</script>"\'><img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """Collects the tags, the text of each note without its labels, and checks that tags nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.notes: list[str] = []
        self.words: list[str] = []
        self.in_note = False
        self.feed(page)
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.stack.append(tag)
        if tag == "p" and dict(attrs).get("class") == "note":
            self.notes.append("")
            self.in_note = True

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag
        self.in_note = self.in_note and tag != "p"

    def handle_data(self, data: str) -> None:
        if self.in_note and "small" not in self.stack:
            self.notes[-1] += data
        if "style" not in self.stack:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def page_of(text: str, *entities: Entity) -> Page:
    return Page(to_html([Document("note", text, list(entities))]))


def test_the_note_is_whole_and_the_entities_are_marked() -> None:
    text = "No fever.\n\n\tOn   metformin."
    page = page_of(
        text, Entity("fever", "symptom", 3, 8, negation="negated"), Entity("metformin", "medication", 17, 26)
    )
    assert page.notes == [text]
    assert [mark["class"] for mark in page.all("mark")] == ["e t-symptom negated", "e t-medication"]
    assert "symptom · negated" in page.words


def test_everything_from_the_note_is_escaped() -> None:
    link = OntologyLink(EVIL, EVIL, EVIL, 0.5)
    entity = Entity(EVIL, EVIL, 0, len(EVIL), 0.5, [link], EVIL, EVIL, EVIL, EVIL, {EVIL: EVIL})
    page = Page(to_html([Document(EVIL, EVIL, [entity])]))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "iframe", "link"})
    assert all(not name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert page.notes == [EVIL]
    assert page.all("mark")[0]["data-tip"].count(EVIL) >= 4  # type: ignore[union-attr]


def test_no_external_request_is_possible() -> None:
    html = render([Document("a", "fever", [Entity("fever", "symptom", 0, 5)])], "html")
    assert "default-src 'none'" in html
    assert not re.search(r"https?://|@import|url\(|<script|<link", html)


def test_each_document_has_its_section_and_anchors_are_unique() -> None:
    fever = Entity("fever", "symptom", 0, 5)
    page = Page("".join(html_page([Document("a", "fever", [fever]), Document("b", "fever fever", [fever])])))
    assert page.notes == ["fever", "fever fever"]
    ids = [mark["id"] for mark in page.all("mark")]
    assert len(set(ids)) == 2
    assert [link["href"] for link in page.all("a")] == [f"#{name}" for name in ids]


def test_an_empty_note_says_so() -> None:
    assert "No entities found." in page_of("").words


spans = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8)


@given(st.text(st.characters(exclude_characters="\r", exclude_categories=("Cc", "Cs", "Cf")), max_size=30), spans)
def test_any_overlap_of_spans_gives_a_well_formed_page_with_the_whole_text(
    text: str, pairs: list[tuple[int, int]]
) -> None:
    found = [Entity(text[a:b], "condition", a, b) for a, b in pairs if a < b <= len(text)]
    page = page_of(text, *found)
    assert page.notes == [text]
    assert len([mark for mark in page.all("mark") if mark.get("id")]) == len(found)


def test_characters_that_html_forbids_are_replaced() -> None:
    html = to_html([Document("a", "x\x00\x1b\x85\ud800\u202ey\r\nz", [])])
    assert "x\ufffd\ufffd\ufffd\ufffdy\nz" in html
    html.encode("utf-8")


def luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_type_has_colours_of_accessible_contrast_in_both_schemes() -> None:
    assert set(COLORS) == set(ENTITY_TYPES)
    for name, schemes in COLORS.items():
        for paper, ink in schemes:
            light, dark = sorted((luminance(paper), luminance(ink)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 7, (name, paper, ink)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")
def test_a_real_browser_renders_it_and_runs_nothing_of_the_note(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    entity = Entity(EVIL, "condition", 4, 4 + len(EVIL), negation="negated")
    page.write_text(to_html([Document("n", f"Had {EVIL}", [entity])]), encoding="utf-8")
    assert CHROMIUM is not None
    options = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --disable-dev-shm-usage"
    )
    command = [CHROMIUM, *options.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    dom = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert "<title>Entities</title>" in dom
    assert "<script" not in dom
    assert 'class="e t-condition negated"' in dom
    image = tmp_path / "page.png"
    subprocess.run([*command, f"--screenshot={image}", page.as_uri()], capture_output=True, timeout=60, check=True)
    assert image.stat().st_size > 5000
