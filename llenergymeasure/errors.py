"""The errors that lem's commands turn into one line."""

from __future__ import annotations

__all__ = ["LemError", "LemUsageError", "first_line"]


class LemError(Exception):
    """An error the user can act on: what was expected, what came, and the remedy, in one line. Exit code 1."""


class LemUsageError(LemError):
    """A command line or configuration that can't be meant so: an unknown key, a wrong value. Exit code 2."""


def first_line(error: BaseException) -> str:
    """What a library's error says, in its first line; the error's name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
