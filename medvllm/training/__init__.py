"""Training: `MedicalModelTrainer` with its settings, and the recipes that learn what the tasks ship."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medvllm.training.config import TrainerConfig
    from medvllm.training.trainer import MedicalModelTrainer, TrainResult

__all__ = ["MedicalModelTrainer", "TrainResult", "TrainerConfig"]

_HOMES = {
    "MedicalModelTrainer": "medvllm.training.trainer",
    "TrainResult": "medvllm.training.trainer",
    "TrainerConfig": "medvllm.training.config",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is first used: the recipes without torch do not pay for the trainer."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
