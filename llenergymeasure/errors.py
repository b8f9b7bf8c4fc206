"""The errors that lem's commands turn into one line."""

from __future__ import annotations

from medvllm_programs.errors import UserError, first_line

__all__ = ["LemError", "LemUsageError", "first_line"]


class LemError(UserError):
    """An error the user can act on: what was expected, what came, and the remedy, in one line. Exit code 1."""


class LemUsageError(LemError):
    """A command line or configuration that can't be meant so: an unknown key, a wrong value. Exit code 2."""

    exit_code = 2
