"""Experiment configurations: read, layered, checked, and made. Names are imported when they are asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llenergymeasure.config.builder import ConfigError, Resolved, resolve
    from llenergymeasure.config.findings import Finding
    from llenergymeasure.config.models import ExperimentConfig

__all__ = ["ConfigError", "ExperimentConfig", "Finding", "Resolved", "resolve"]

_HOMES = {
    "ConfigError": "builder",
    "ExperimentConfig": "models",
    "Finding": "findings",
    "Resolved": "builder",
    "resolve": "builder",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
