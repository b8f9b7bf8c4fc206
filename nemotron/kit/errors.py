"""The errors that a recipe's command line turns into one line."""

from __future__ import annotations

from medvllm_programs.errors import UserError

__all__ = ["KitError", "KitUsageError"]


class KitError(UserError):
    """An error the user can act on: what was expected, what came, and the remedy, in one line. Exit code 1."""


class KitUsageError(KitError):
    """A command line that can't be meant so: an unknown key, a value of the wrong type. Exit code 2."""

    exit_code = 2
