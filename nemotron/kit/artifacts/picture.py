"""The lineage as a picture: one self-contained SVG, inputs on the left, without scripts, fonts or links."""

from __future__ import annotations

from html import escape

from nemotron.kit.artifacts.lineage import LineageNode

__all__ = ["render_svg"]

_WIDTH, _HEIGHT = 270, 78  # of a box, in pixels
_GAP_X, _GAP_Y, _MARGIN = 70, 22, 20
_FILL = {"artifact": "#e8f1fb", "source": "#f3f3ee", "missing": "#fbe9e7"}
_CHARACTERS = 34  # of 13 px monospace text that fit a box


def render_svg(node: LineageNode) -> str:
    """Boxes in columns: the artifact is on the right, each input left of all that was made from it.

    Names are escaped, so one with `<` or `&` shows as it is.
    """
    columns = _columns(node)
    places: dict[int, tuple[int, int]] = {}
    tallest = max(len(column) for column in columns)
    for index, column in enumerate(columns):
        left = _MARGIN + (len(columns) - 1 - index) * (_WIDTH + _GAP_X)
        top = _MARGIN + (tallest - len(column)) * (_HEIGHT + _GAP_Y) // 2
        for row, each in enumerate(column):
            places[id(each)] = (left, top + row * (_HEIGHT + _GAP_Y))
    width = 2 * _MARGIN + len(columns) * (_WIDTH + _GAP_X) - _GAP_X
    height = 2 * _MARGIN + tallest * (_HEIGHT + _GAP_Y) - _GAP_Y
    every = [each for column in columns for each in column]
    arrows = [_arrow(places[id(source)], places[id(each)]) for each in every for source in each.inputs]
    boxes = [_box(each, *places[id(each)]) for each in every]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="monospace" font-size="13" role="img">\n<title>Lineage of {escape(node.label)}</title>\n'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#555"/></marker></defs>\n<rect width="100%" height="100%" fill="#fff"/>'
    )
    return "\n".join([head, *arrows, *boxes, "</svg>"]) + "\n"


def _columns(root: LineageNode) -> list[list[LineageNode]]:
    """Column 0 holds the root; a node is in the column after the last of those made from it."""
    depth: dict[int, int] = {}
    order: dict[int, LineageNode] = {}

    def visit(node: LineageNode, at: int) -> None:
        if depth.get(id(node), -1) >= at:
            return
        depth[id(node)] = at
        order.setdefault(id(node), node)
        for each in node.inputs:
            visit(each, at + 1)

    visit(root, 0)
    columns: list[list[LineageNode]] = [[] for _ in range(max(depth.values()) + 1)]
    for key, node in order.items():
        columns[depth[key]].append(node)
    return columns


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1 = start[0] + _WIDTH, start[1] + _HEIGHT // 2
    x2, y2 = end[0], end[1] + _HEIGHT // 2
    middle = (x1 + x2) // 2
    path = f"M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}"
    return f'<path d="{path}" fill="none" stroke="#555" marker-end="url(#head)"/>'


def _box(node: LineageNode, left: int, top: int) -> str:
    fill = _FILL["missing" if node.missing else node.kind]
    facts = ["source"] if node.kind == "source" else ["not in the registry"] if node.missing else []
    facts += [each for each in (node.type, node.command or node.job, (node.created_at or "")[:19]) if each]
    lines = [
        f'<text x="{left + 10}" y="{top + 20 + 16 * index}"{_style(index)}>{escape(_short(text))}</text>'
        for index, text in enumerate([node.label, *facts][:4])
    ]
    full = escape(" · ".join([node.label, *facts]))
    box = f'<rect x="{left}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="{fill}" stroke="#555"/>'
    return f"<g><title>{full}</title>{box}{''.join(lines)}</g>"


def _style(line: int) -> str:
    return ' font-weight="bold"' if line == 0 else ' fill="#444"'


def _short(text: str) -> str:
    """The text cut in its middle to what fits: names differ at their ends."""
    if len(text) <= _CHARACTERS:
        return text
    half = (_CHARACTERS - 1) // 2
    return f"{text[:half]}…{text[-half:]}"
