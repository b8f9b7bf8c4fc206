"""How a figure is written, in a terminal and on a page."""

from __future__ import annotations

__all__ = ["number"]


def number(value: float | None, unit: str = "") -> str:
    """Four significant digits, as people write them; a dash for what is not known."""
    if value is None:
        return "–"
    size = abs(value)
    text = (
        f"{value:.3e}" if size and (size >= 1e7 or size < 1e-4) else f"{value:,.4g}" if size < 1e4 else f"{value:,.0f}"
    )
    return f"{text} {unit}".rstrip()
