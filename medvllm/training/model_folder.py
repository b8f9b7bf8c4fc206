"""The run folder as a model: what transformers, `model register` and `inference` load."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from medvllm.training.checkpoint import sync_folder, writing
from medvllm.utils.files import write_atomically
from medvllm.utils.quiet import quiet_transformers

__all__ = ["find_tokenizer", "write_json", "write_model"]


def find_tokenizer(model: Any, *datasets: Any) -> Any:
    """The tokenizer that the model or a dataset brings as its attribute `tokenizer`, or None."""
    for owner in (model, *datasets):
        tokenizer = getattr(owner, "tokenizer", None)
        if hasattr(tokenizer, "save_pretrained"):
            return tokenizer
    return None


def write_model(folder: Path, model: nn.Module, weights: dict[str, Tensor], *, tokenizer: Any = None) -> None:
    """Writes weights as safetensors, and of a transformers model its configuration, into `folder`; each file whole.

    Args:
        folder: the run folder.
        model: whose configuration it is.
        weights: whole, on the CPU, by name.
        tokenizer: what is saved beside it.

    Raises:
        MedvllmError: the disk is full.
    """
    partial = folder / ".model.tmp"
    with writing("the model", folder / "model.safetensors"):
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            readable = partial.stat().st_mode & 0o666
            if hasattr(model, "save_pretrained"):
                with quiet_transformers():
                    model.save_pretrained(partial, state_dict=dict(weights))
            else:
                save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
            if tokenizer is not None:
                tokenizer.save_pretrained(partial)
            for path in partial.iterdir():
                path.chmod(readable)  # safetensors makes files for their owner alone
            sync_folder(partial)
            for path in sorted(partial.iterdir()):
                os.replace(path, folder / path.name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """A JSON file, whole or not at all."""
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
