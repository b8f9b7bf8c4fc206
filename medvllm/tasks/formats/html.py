"""A self-contained page with the entities highlighted in the text and listed below it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html import escape

from medvllm.tasks.entities import ENTITY_TYPES, Entity
from medvllm.tasks.formats.document import Document, assertion_labels

__all__ = ["COLORS", "html_page", "to_html"]

# type -> (paper, ink) in the light and in the dark scheme; ink on paper has a contrast of at least 7 : 1.
COLORS: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "condition": (("#fde2e1", "#7a1210"), ("#4d1715", "#ffd9d6")),
    "symptom": (("#fdebd3", "#663300"), ("#472a08", "#ffe3bd")),
    "medication": (("#dcebfd", "#0b3a75"), ("#122f54", "#d3e6ff")),
    "chemical": (("#d5f2f0", "#0a4744"), ("#0c3b39", "#c8f2ee")),
    "procedure": (("#f0e2fb", "#521d7a"), ("#3a1b54", "#ecd9ff")),
    "test": (("#e6e5fc", "#322c85"), ("#2a2760", "#dedcff")),
    "anatomical_structure": (("#e2f2d6", "#27500b"), ("#22400f", "#d7f3c3")),
    "lab_value": (("#d8f0fa", "#0b465e"), ("#0d3a4d", "#c9edfc")),
    "temporal": (("#ececec", "#3a3a3a"), ("#3a3a3a", "#ececec")),
}
_OTHER = (("#ececec", "#3a3a3a"), ("#3a3a3a", "#ececec"))
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--page:#f5f6f8;--ink:#1c1f24;--soft:#566070;--line:#d6dae1}
@media(prefers-color-scheme:dark){:root{--paper:#191c21;--page:#101215;--ink:#e8eaee;--soft:#a4adba;--line:#343a43}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
 font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:64rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.35rem;margin:0 0 .75rem}
h2{font-size:1.05rem;margin:0 0 .75rem;overflow-wrap:anywhere}
section{background:var(--paper);border:1px solid var(--line);border-radius:.6rem;
 padding:1.1rem 1.25rem;margin:1.25rem 0}
.legend{display:flex;flex-wrap:wrap;gap:.4rem .6rem;list-style:none;margin:0;padding:0}
.note{white-space:pre-wrap;overflow-wrap:anywhere;line-height:2;tab-size:4;margin:0}
.e{position:relative;border-radius:.3rem;padding:.12em .28em;
 box-decoration-break:clone;-webkit-box-decoration-break:clone;
 background:var(--b);color:var(--f);box-shadow:inset 0 0 0 1px color-mix(in srgb,var(--f) 35%,transparent)}
.e>small{font-size:.68em;font-weight:600;letter-spacing:.02em;margin-left:.45em;white-space:nowrap}
.e.negated>.w{text-decoration:line-through;text-decoration-thickness:.09em}
.e.possible>.w{text-decoration:underline dotted;text-underline-offset:.2em}
.e:focus-visible{outline:2px solid var(--f);outline-offset:1px}
.e[data-tip]:hover::after,.e[data-tip]:focus::after{content:attr(data-tip);position:absolute;left:0;top:100%;z-index:9;

 width:max-content;max-width:24rem;white-space:pre-wrap;
 font-size:.82rem;font-weight:400;line-height:1.4;padding:.45rem .6rem;
 border-radius:.35rem;background:var(--ink);color:var(--paper);pointer-events:none;text-decoration:none}
.e:target{outline:3px solid var(--f)}
.wide{overflow-x:auto;margin-top:1.1rem}
table{border-collapse:collapse;width:100%;font-size:.88rem}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600}
td.n{white-space:nowrap;font-variant-numeric:tabular-nums}
td a{color:inherit}
.none{color:var(--soft)}
"""


def to_html(documents: Iterable[Document]) -> str:
    """The page of all documents, with a final newline."""
    return "".join(html_page(documents))


def html_page(documents: Iterable[Document]) -> Iterator[str]:
    """The page in pieces, one a document, so that many documents need not be held at once."""
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>Entities</title>\n<style>{_STYLE}{_color_rules()}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>Entities</h1>\n{_legend()}\n"
    )
    for number, document in enumerate(documents):
        yield _section(number, document)
    yield "</main>\n</body>\n</html>\n"


def _color_rules() -> str:
    light = [f".t-{name}{{--b:{paper};--f:{ink}}}" for name, ((paper, ink), _) in COLORS.items()]
    dark = [f".t-{name}{{--b:{paper};--f:{ink}}}" for name, (_, (paper, ink)) in COLORS.items()]
    (paper, ink), (dark_paper, dark_ink) = _OTHER
    return (
        f".e{{--b:{paper};--f:{ink}}}" + "".join(light) + "@media(prefers-color-scheme:dark){"
        f".e{{--b:{dark_paper};--f:{dark_ink}}}" + "".join(dark) + "}"
    )


def _legend() -> str:
    items = "".join(f'<li class="e t-{name}">{name.replace("_", " ")}</li>' for name in ENTITY_TYPES)
    return (
        f'<ul class="legend">{items}<li class="e negated"><span class="w">negated</span></li>'
        '<li class="e possible"><span class="w">possible</span></li></ul>'
    )


def _clean(text: str) -> str:
    """The text escaped; characters that HTML does not allow or that reorder the line are replaced."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return escape(_DIRECTION.sub("", _UNPRINTABLE.sub("\ufffd", text)))


def _section(number: int, document: Document) -> str:
    entities = sorted(document.entities, key=lambda entity: (entity.start, -entity.end))
    body = _marked(document.text, entities, number)
    listing = _table(entities, number) if entities else '<p class="none">No entities found.</p>'
    return f'<section>\n<h2>{_clean(document.id)}</h2>\n<p class="note">{body}</p>\n{listing}\n</section>\n'


def _marked(text: str, entities: list[Entity], number: int) -> str:
    """The text with a `<mark>` around each entity; one that overlaps another without lying in it is marked
    in parts.
    """
    pieces: list[str] = []
    stack: list[int] = []  # entities open now, outermost first
    at = 0

    def close_up_to(limit: int) -> None:
        """Close what ends by `limit`; what is open inside it is closed too, and opened again behind."""
        nonlocal at
        while stack:
            end = min(entities[index].end for index in stack)
            if end > limit:
                return
            pieces.append(_words(text[at:end]))
            at = end
            first = next(i for i, index in enumerate(stack) if entities[index].end <= end)
            reopened = [index for index in stack[first:] if entities[index].end > end]
            for index in reversed(stack[first:]):
                pieces.append(_closing(entities[index], last=entities[index].end <= end))
            del stack[first:]
            for index in reopened:
                pieces.append(_opening(entities[index], None))
                stack.append(index)

    for index, entity in enumerate(entities):
        if entity.end <= entity.start:
            continue
        close_up_to(entity.start)
        pieces.append(_words(text[at : entity.start]))
        at = max(at, entity.start)
        pieces.append(_opening(entity, f"e{number}-{index}"))
        stack.append(index)
    close_up_to(len(text))
    pieces.append(_words(text[at:]))
    return "".join(pieces)


def _words(text: str) -> str:
    return f'<span class="w">{_clean(text)}</span>' if text else ""


def _opening(entity: Entity, anchor: str | None) -> str:
    classes = " ".join(["e", f"t-{entity.type}", *assertion_labels(entity)])
    identity = f' id="{anchor}" tabindex="0"' if anchor else ""
    return f'<mark class="{_clean(classes)}"{identity} data-tip="{_clean(_tip(entity))}">'


def _closing(entity: Entity, *, last: bool) -> str:
    if not last:
        return "</mark>"
    label = " · ".join([entity.type.replace("_", " "), *assertion_labels(entity)])
    return f"<small>{_clean(label)}</small></mark>"


def _tip(entity: Entity) -> str:
    """What the tooltip says: type, assertion, links, attributes, a line each."""
    lines = [" · ".join([entity.type.replace("_", " "), *assertion_labels(entity)])]
    if entity.confidence is not None:
        lines[0] += f" · {entity.confidence:.2f}"
    lines += [f"{link.ontology}:{link.code} {link.name}" for link in (entity.ontology_links or [])[:3]]
    lines += [f"{key.replace('_', ' ')}: {_plain(value)}" for key, value in entity.attributes.items()]
    if entity.section is not None:
        lines.append(f"section: {entity.section}")
    return "\n".join(lines)


def _plain(value: object) -> str:
    """An attribute's value in words."""
    if isinstance(value, dict):
        return " ".join(_plain(part) for part in value.values())
    if isinstance(value, list):
        return ", ".join(_plain(part) for part in value)
    return "yes" if value is True else str(value)


def _table(entities: list[Entity], number: int) -> str:
    rows = []
    for index, entity in enumerate(entities):
        links = "<br>".join(
            f"{_clean(link.ontology)}:{_clean(link.code)} {_clean(link.name)}" for link in entity.ontology_links or []
        )
        attributes = "; ".join(f"{key.replace('_', ' ')}: {_plain(v)}" for key, v in entity.attributes.items())
        rows.append(
            f'<tr><td><a href="#e{number}-{index}">{_clean(" ".join(entity.text.split()))}</a></td>'
            f"<td>{_clean(entity.type.replace('_', ' '))}</td>"
            f"<td>{_clean(', '.join(assertion_labels(entity)))}</td>"
            f'<td class="n">{entity.start}–{entity.end}</td><td>{links}</td>'
            f"<td>{_clean(attributes)}</td></tr>"
        )
    return (
        '<div class="wide"><table>\n<thead><tr><th>Text</th><th>Type</th><th>Assertion</th><th>Span</th>'
        "<th>Links</th><th>Attributes</th></tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody></table></div>"
    )
