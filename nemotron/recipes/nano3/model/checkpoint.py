"""Checkpoints: `iter_0000500/` with weights, optimizer and random states as safetensors and the position as JSON.

A folder is complete when it has its name: it is filled under another one and renamed.
`latest_checkpointed_iteration.txt` (Megatron's name) is for people; reading takes the highest folder.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from nemotron.kit.artifacts.files import write_bytes_atomically
from nemotron.kit.errors import KitError
from nemotron.recipes.nano3.model.distributed import Ranks

__all__ = ["Position", "load_checkpoint", "newest_checkpoint", "save_checkpoint"]

_NAME = re.compile(r"iter_([0-9]{7,})")


@dataclass(frozen=True, slots=True)
class Position:
    """Where training is: iterations done, and what must be the same for it to go on (`fixed`)."""

    iteration: int
    fixed: dict[str, Any]
    last_loss: float | None


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest iteration, or None."""
    found = [path for path in folder.glob("iter_*") if _NAME.fullmatch(path.name)]
    return max(found, key=lambda path: int(path.name.removeprefix("iter_")), default=None)


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position, *, keep: int, ranks: Ranks
) -> None:
    """Writes the checkpoint of `position` and removes all but the newest `keep`. All ranks call it."""
    name = f"iter_{position.iteration:07d}"
    partial = folder / f".{name}.tmp"
    if ranks.first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_own_weights(model), partial / "model.safetensors")
        save_file(_optimizer_tensors(model, optimizer), partial / "optimizer.safetensors")
        state = {"iteration": position.iteration, "last_loss": position.last_loss, "fixed": position.fixed}
        (partial / "position.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    ranks.barrier()
    save_file(_random_states(), partial / f"random_{ranks.rank:05d}.safetensors")
    ranks.barrier()
    if ranks.first:
        shutil.rmtree(folder / name, ignore_errors=True)
        partial.rename(folder / name)
        write_bytes_atomically(folder / "latest_checkpointed_iteration.txt", f"{position.iteration}\n".encode())
        for old in sorted(path for path in folder.glob("iter_*") if _NAME.fullmatch(path.name))[:-keep]:
            shutil.rmtree(old)
    ranks.barrier()


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, fixed: dict[str, Any], ranks: Ranks
) -> Position:
    """Puts model, optimizer and this rank's random state as they were, and returns the position.

    Raises:
        KitError: the checkpoint is of other data or of another model.
    """
    state = json.loads((path / "position.json").read_text(encoding="utf-8"))
    for key, value in fixed.items():
        if state["fixed"].get(key) != value:
            raise KitError(
                f"the checkpoint {path} was made with {key} {state['fixed'].get(key)}, now it is {value}; use another "
                f"output_dir, or force=true to start anew"
            )
    model.load_state_dict(load_file(path / "model.safetensors"), strict=False)  # without the tied head
    _restore_optimizer(model, optimizer, load_file(path / "optimizer.safetensors"))
    random = path / f"random_{ranks.rank:05d}.safetensors"
    if random.is_file():  # with more ranks than before the new ones keep the state they were seeded with
        states = load_file(random)
        torch.set_rng_state(states["cpu"])
        if "cuda" in states and torch.cuda.is_available():
            torch.cuda.set_rng_state(states["cuda"])
    return Position(state["iteration"], state["fixed"], state["last_loss"])


def _own_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().contiguous() for name, weight in model.named_parameters()}  # tied ones once


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, weight in model.named_parameters():
        for key, value in optimizer.state[weight].items():
            tensors[f"{key}/{name}"] = torch.as_tensor(value).detach().contiguous()
    return tensors


def _restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    weights = dict(model.named_parameters())
    for label, value in tensors.items():
        key, _, name = label.partition("/")
        # The count of steps stays where AdamW put it: beside the weight for the fused kernel.
        optimizer.state[weights[name]][key] = value.to(weights[name].device)


def _random_states() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states
