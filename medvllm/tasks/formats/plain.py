"""Text made safe and measured for a terminal: control characters, display width, wrapping."""

from __future__ import annotations

import re

__all__ = ["display_width", "one_line", "pad", "strip_controls", "wrap"]

# C0 but newline, DEL, C1 (an 8-bit CSI is U+009B), line and paragraph separators.
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")
# Direction overrides and isolates reorder what follows them on screen, past the cell they stand in.
_DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: no encoding can write it
_PRINTABLE_ASCII = re.compile("[ -~\n]*")


def strip_controls(text: str) -> str:
    """The text with every control character but the newline as a space; `\\r\\n` and tabs included.

    Direction overrides are dropped and lone surrogates become U+FFFD.
    """
    if _PRINTABLE_ASCII.fullmatch(text):
        return text
    text = _CONTROL.sub(" ", text.replace("\r\n", "\n"))
    return _SURROGATE.sub("\ufffd", _DIRECTION.sub("", text))


def one_line(text: str) -> str:
    """The text on one line: controls and newlines as spaces, runs of white space as one."""
    return " ".join(strip_controls(text).split())


def display_width(text: str) -> int:
    """Columns the text takes in a terminal: wide characters two, combining and format characters none."""
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width

    width = 0
    for char in text:
        if category(char) in ("Mn", "Me", "Cf"):
            continue
        width += 2 if east_asian_width(char) in ("W", "F") else 1
    return width


def pad(text: str, width: int) -> str:
    """The text followed by spaces up to `width` columns."""
    return text + " " * (width - display_width(text))


def _split_word(word: str, width: int) -> list[str]:
    """A word wider than the line in pieces of at most `width` columns (one character when it is wider than
    that).
    """
    pieces, piece, used = [], "", 0
    for char in word:
        columns = display_width(char)
        if piece and used + columns > width:
            pieces.append(piece)
            piece, used = "", 0
        piece += char
        used += columns
    return [*pieces, piece]


def wrap(text: str, width: int) -> list[str]:
    """The one-line text in lines of at most `width` columns, broken at spaces and inside longer words."""
    lines, line, used = [], "", 0
    for word in text.split(" "):
        for piece in [word] if display_width(word) <= width else _split_word(word, width):
            columns = display_width(piece)
            if line and used + 1 + columns > width:
                lines.append(line)
                line, used = piece, columns
            else:
                line, used = (f"{line} {piece}", used + 1 + columns) if line else (piece, columns)
    return [*lines, line]
