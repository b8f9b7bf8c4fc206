"""The one exception that commands turn into a one-line message, and how it quotes another."""

from __future__ import annotations

__all__ = ["MedvllmError", "first_line"]


class MedvllmError(Exception):
    """An error the user can act on: what was expected, what came, and the remedy, in one line."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
