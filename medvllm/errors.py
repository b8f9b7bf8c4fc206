"""The one exception that commands turn into a one-line message."""

from __future__ import annotations

__all__ = ["MedvllmError"]


class MedvllmError(Exception):
    """An error the user can act on: what was expected, what came, and the remedy, in one line."""
