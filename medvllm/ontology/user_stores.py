"""The vocabularies that a user has imported: folders under `ontologies` in the data folder."""

from __future__ import annotations

import re
from pathlib import Path

from medvllm.errors import MedvllmError
from medvllm.utils.files import medvllm_home

__all__ = ["user_store_folder", "user_stores"]


def user_store_folder(name: str) -> Path:
    """Where the imported vocabulary of that name is, or goes.

    Raises:
        MedvllmError: the name can't be a folder's.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise MedvllmError(
            f"a vocabulary's name is letters, digits, '.', '_' and '-', got {name!r}; give another with --name"
        )
    return medvllm_home() / "ontologies" / name


def user_stores() -> tuple[str, ...]:
    """The folders of the imported stores, by name; they come before the built-in one."""
    try:
        folder = medvllm_home() / "ontologies"
        return tuple(sorted(str(path.parent) for path in folder.glob("*/terms.bin")))
    except (MedvllmError, PermissionError):
        return ()  # no home, or one that is not ours: nothing was imported
