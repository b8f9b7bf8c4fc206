"""The one exception that commands turn into a one-line message, and how it quotes another."""

from __future__ import annotations

from medvllm_programs.errors import UserError, first_line

__all__ = ["MedvllmError", "first_line", "missing"]


class MedvllmError(UserError):
    """An error the user can act on: what was expected, what came, and the remedy, in one line."""


def missing(extra: str) -> str:
    """How to install what an extra of this package holds, whether the package is installed or run in a checkout."""
    return f"pip install 'medvllm[{extra}]' (in a checkout: pip install '.[{extra}]')"
