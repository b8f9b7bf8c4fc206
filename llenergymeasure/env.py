"""What the environment says: a `.env` file, and the variables that stand above the defaults."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

from llenergymeasure.errors import LemError

__all__ = ["RESULTS_DIR", "load_dotenv_file", "origin"]

RESULTS_DIR = "LLM_ENERGY_RESULTS_DIR"
_from_file: dict[str, str] = {}  # variable → the value that a .env file gave it in this process


def load_dotenv_file(environ: MutableMapping[str, str] = os.environ) -> Path | None:
    """Reads the nearest `.env`, in the working folder or above it; a variable that is set already stays as it is.

    Raises:
        LemError: it is no UTF-8 text.
    """
    here = Path.cwd()
    found = next((path for folder in (here, *here.parents) if (path := folder / ".env").is_file()), None)
    if found is None or not os.access(found, os.R_OK):
        return None
    from dotenv import dotenv_values

    try:
        values = dotenv_values(found)
    except UnicodeDecodeError as error:
        raise LemError(f"{found}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    for name, value in values.items():
        if value is not None and name not in environ:
            environ[name] = value
            _from_file[name] = value
    return found


def origin(name: str, value: str) -> str:
    """Where a variable got its value, as provenance shows it."""
    return f"env {name} (.env)" if _from_file.get(name) == value else f"env {name}"
