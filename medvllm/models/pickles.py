"""Weights in torch's pickle files, where the user allows them: tensors are read from them, and nothing else.

torch's restricted unpickler (`weights_only`) builds tensors and plain containers and refuses every other name that the
file asks for, so reading runs no code of the file's.
"""

from __future__ import annotations

import functools
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medvllm.errors import MedvllmError

__all__ = ["is_pickle", "read_pickle"]


def is_pickle(path: Path) -> bool:
    """Whether weights at `path` are a pickle file."""
    return path.suffix != ".safetensors"


@functools.lru_cache(maxsize=2)
def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; mapped where torch's format allows, so that they take memory when copied.

    Raises:
        MedvllmError: it is damaged, holds anything but tensors, or asks for code to be run.
    """
    try:
        found: Any = _load(path)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "it is no pickle file"
        raise MedvllmError(
            f"{path} holds more than tensors, which is refused ({reason[:160]}); convert it to safetensors where you "
            "trust it"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MedvllmError(f"can't read the weights in {path}: {reason[:160]}; get the file again") from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(each, Tensor) for each in found.values()):
        raise MedvllmError(f"{path} must hold tensors by name, got {type(found).__name__}; it is no model's weights")
    return {str(name): tensor for name, tensor in found.items()}


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)  # before torch 1.6 files were no archives
