"""The error that a program tells its user in one line, and how it quotes another."""

from __future__ import annotations

__all__ = ["UserError", "first_line"]


class UserError(Exception):
    """An error the user can act on: what was expected, what came, and the remedy, in one line."""

    exit_code = 1  # 2 where the command line or a configuration can't be meant so


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
