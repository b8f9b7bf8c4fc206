"""Checkpoints: `step-00000500/` with the weights in safetensors and all else that the next step depends on.

`model.safetensors` has the weights, `training_state.pt` optimiser, loss scaler and random states (read with
`weights_only=True`), `position.json` where training is. A folder is complete when it has its name: it is filled and
synced under another one, then renamed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medvllm.errors import MedvllmError, first_line
from medvllm.training.config import TrainerConfig
from medvllm.training.distributed import Ranks, full, like

__all__ = [
    "Checkpoint",
    "Position",
    "changed_settings",
    "checkpoint_of",
    "checkpoints",
    "load_weights",
    "newest_checkpoint",
    "prune",
    "read_checkpoint",
    "remove_after",
    "restore",
    "save_checkpoint",
    "sync_folder",
    "whole_weights",
    "writing",
]

_NAME = re.compile(r"step-([0-9]{8,})")
_OTHER_WEIGHTS = (
    "is of other trained weights, or other rates among them (lr_scale); give the same to --entrypoint, or another "
    "--output, or --resume none to start anew"
)
_UNREADABLE = (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError, EOFError, UnpicklingError)


@dataclass(slots=True)
class Position:
    """Where training is."""

    step: int = 0  # steps done
    epoch: int = 0  # epochs done
    step_in_epoch: int = 0  # steps done in the one that is running
    best_metric: float | None = None
    best_step: int | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)  # all of that evaluation
    stale: int = 0  # evaluations since the best one
    stopped: bool = False  # by early stopping
    loss_sum: float = 0.0  # of the steps since the last line of metrics.jsonl
    loss_steps: int = 0

    def forget_best(self) -> None:
        """No evaluation so far counts."""
        self.best_metric, self.best_step, self.best_metrics, self.stale = None, None, {}, 0

    def measure_best_by(self, metric: str) -> None:
        """The best model stays the best one so far, by its value of another metric; without one it is forgotten."""
        if metric not in self.best_metrics:
            self.forget_best()
        else:
            self.best_metric, self.stale = self.best_metrics[metric], 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint's folder, and what its position.json says."""

    folder: Path
    position: Position
    fixed: dict[str, Any]  # what a run must share to go on from it
    settings: dict[str, Any]  # of the run that wrote it


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints under `folder`, oldest first."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step, or None."""
    return next(reversed(checkpoints(folder)), None)


def checkpoint_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is, or would be."""
    return folder / f"step-{step:08d}"


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Any,
    position: Position,
    *,
    fixed: dict[str, Any],
    settings: dict[str, Any],
    ranks: Ranks,
) -> Path:
    """Writes the checkpoint of `position` and returns its folder. All ranks call it; the first one writes.

    Raises:
        MedvllmError: it could not be written; those before are as they were.
    """
    target = checkpoint_of(folder, position.step)
    weights = whole_weights(model)
    state = {
        "optimizer": _whole_optimizer(optimizer),
        "scaler": scaler.state_dict(),
        "random": ranks.gathered(_random_states(ranks)),
    }
    if ranks.first:
        partial = folder / f".{target.name}.tmp"
        text = json.dumps(
            {"position": dataclasses.asdict(position), "fixed": fixed, "settings": settings},
            indent=2,
            ensure_ascii=False,
        )
        with writing(f"the checkpoint of step {position.step}", target, before=newest_checkpoint(folder)):
            try:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
                with open(
                    partial / "training_state.pt", "wb"
                ) as file:  # a file of Python's, whose error says the reason
                    torch.save(state, file)
                (partial / "position.json").write_text(text + "\n", encoding="utf-8")
                sync_folder(partial)
                if target.exists():  # of a run before, whose later steps are made again
                    _remove(target)
                partial.rename(target)
                _sync(folder)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    ranks.barrier()
    return target


@contextlib.contextmanager
def writing(what: str, path: Path, *, before: Path | None = None) -> Iterator[None]:
    """Turns what the writers raise on a full or read-only disk into one line.

    `before` is the checkpoint that training can go on from.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else first_line(error)
        free = f"{shutil.disk_usage(path.parent).free / 1e6:,.0f} MB are free" if path.parent.is_dir() else "no folder"
        then = f"; the same command goes on from {before.name}" if before else ""
        raise MedvllmError(
            f"{what} could not be written to {path}: {reason} ({free}); free some space or choose another --output"
            f"{then}"
        ) from error


def prune(folder: Path, *, keep: int, best_step: int | None) -> None:
    """Removes all but the newest `keep` checkpoints and the best, and what a killed process left half-written."""
    for old in checkpoints(folder)[:-keep]:
        if best_step is None or old != checkpoint_of(folder, best_step):
            _remove(old)
    for partial in folder.glob(".step-*.tmp"):
        shutil.rmtree(partial)


def remove_after(folder: Path, step: int) -> None:
    """Removes the checkpoints of later steps: training goes over them again."""
    for path in checkpoints(folder):
        if int(path.name.removeprefix("step-")) > step:
            _remove(path)


def _remove(checkpoint: Path) -> None:
    """Takes its name away first: killed in between, half a checkpoint would look like a whole one."""
    aside = checkpoint.with_name(f".{checkpoint.name}.old.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)
    shutil.rmtree(aside)


def changed_settings(before: dict[str, Any], config: TrainerConfig) -> list[str]:
    """The settings that change the result and are not as in the checkpoint, as `name 1 (was 2)`."""
    aside = ("output", "resume", "progress", "plot", "export", "log_every", "keep", "device", "num_workers", "threads")
    now = config.to_dict()
    return [
        f"{name} {now[name]} (was {before[name]})"
        for name in now
        if name in before
        and before[name] != now[name]
        and name not in aside
        and not name.startswith(("wandb", "tensorb"))
    ]


def read_checkpoint(folder: Path) -> Checkpoint:
    """What a checkpoint says of itself.

    Raises:
        MedvllmError: the folder is no checkpoint.
    """
    try:
        data = json.loads((folder / "position.json").read_text(encoding="utf-8"))
        return Checkpoint(folder, Position(**data["position"]), dict(data["fixed"]), dict(data["settings"]))
    except FileNotFoundError as error:
        raise MedvllmError(f"{folder} is no checkpoint: it has no position.json; give a step-… folder") from error
    except _UNREADABLE as error:
        raise MedvllmError(f"{folder}/position.json can't be read ({error}); remove that checkpoint") from error


def restore(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Any,
    *,
    fixed: dict[str, Any],
    ranks: Ranks,
) -> None:
    """Puts weights, optimiser, scaler and this rank's random states as they were.

    Raises:
        MedvllmError: the checkpoint is of other data, another model or other settings, or damaged.
    """
    for key, value in fixed.items():
        if checkpoint.fixed.get(key) != value:
            raise MedvllmError(
                f"{checkpoint.folder} was made with {key} {checkpoint.fixed.get(key)}, now it is {value}; give the "
                "same, or another --output, or --resume none to start anew"
            )
    load_weights(checkpoint.folder, model)
    try:
        state = torch.load(checkpoint.folder / "training_state.pt", map_location="cpu", weights_only=True)
        _restore_optimizer(optimizer, state["optimizer"])
        if state["scaler"]:  # empty where the run before needed none
            scaler.load_state_dict(state["scaler"])
        if ranks.rank < len(
            state["random"]
        ):  # with more ranks than before the new ones keep what they were seeded with
            _restore_random(state["random"][ranks.rank], ranks)
    except _UNREADABLE as error:
        if isinstance(error, UnpicklingError):
            reason = "it holds something else than tensors and numbers"
        else:
            reason = first_line(error)
        raise MedvllmError(
            f"{checkpoint.folder}/training_state.pt can't be read ({reason}); remove that checkpoint to go on from the "
            "one before"
        ) from error


def load_weights(folder: Path, model: nn.Module) -> None:
    """Puts the weights of a checkpoint into the model. All ranks call it.

    Raises:
        MedvllmError: the file is damaged, or of another model.
    """
    path = folder / "model.safetensors"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise MedvllmError(
            f"{path} can't be read ({error}); remove that checkpoint to go on from the one before"
        ) from error
    own = _unique(model)
    if differing := sorted(set(own) ^ set(tensors)):
        raise MedvllmError(f"{path} is of another model: only one of the two has {', '.join(differing[:3])}")
    with torch.no_grad():
        for name, target in own.items():
            if target.shape != tensors[name].shape:
                shapes = f"{tuple(tensors[name].shape)}, the model's has {tuple(target.shape)}"
                raise MedvllmError(f"{path} is of another model: {name} has the shape {shapes}")
            target.copy_(like(tensors[name], target))


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers by name, whole, on the CPU; a tensor with several names under its first. All ranks call."""
    whole = {name: full(value).contiguous() for name, value in _unique(model).items()}
    # a view of a larger tensor is copied: safetensors writes storages
    return {
        name: value.clone() if value.untyped_storage().nbytes() != value.nbytes else value
        for name, value in whole.items()
    }


def _unique(model: nn.Module) -> dict[str, Tensor]:
    names: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)  # tied weights are one object
    for name, value in state.items():
        if isinstance(value, Tensor):
            names.setdefault(id(value), name)
    return {name: state[name].detach() for name in names.values()}


def _whole_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    state = optimizer.state_dict()
    tensors = {index: {key: full(value) for key, value in each.items()} for index, each in state["state"].items()}
    return {"state": tensors, "param_groups": state["param_groups"]}


def _restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Cuts what belongs to a sharded weight as the weight is cut; the count of steps is one number for all.

    Settings (weight decay, momentum …) stay those of now.
    """
    groups = optimizer.param_groups
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in state["param_groups"]]:
        raise MedvllmError(f"the checkpoint {_OTHER_WEIGHTS}")
    weights = [weight for group in groups for weight in group["params"]]
    for index, values in state["state"].items():
        target = weights[index]
        for key, value in values.items():
            if isinstance(value, Tensor) and value.dim() > 0:
                if value.shape != target.shape:
                    raise MedvllmError(f"the checkpoint {_OTHER_WEIGHTS}")
                values[key] = like(value, target)
    merged = [
        {**before, **{name: value for name, value in now.items() if name != "params"}}
        for before, now in zip(state["param_groups"], groups, strict=True)
    ]
    optimizer.load_state_dict({"state": state["state"], "param_groups": merged})


def _random_states(ranks: Ranks) -> dict[str, Any]:
    import numpy

    name, keys, place, has_gauss, cached = numpy.random.get_state()
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, numpy.asarray(keys).tolist(), place, has_gauss, cached),
        "torch": torch.get_rng_state(),
    }
    if ranks.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(ranks.device)
    elif ranks.device.type == "xla":
        from torch_xla.core import xla_model

        states["xla"] = int(xla_model.get_rng_state())
    return states


def _restore_random(states: dict[str, Any], ranks: Ranks) -> None:
    import numpy

    random.setstate(states["python"])
    name, keys, place, has_gauss, cached = states["numpy"]
    numpy.random.set_state((name, numpy.array(keys, dtype=numpy.uint32), place, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and ranks.device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], ranks.device)
    if "xla" in states and ranks.device.type == "xla":
        from torch_xla.core import xla_model

        xla_model.set_rng_state(states["xla"])


def sync_folder(folder: Path) -> None:
    """Has the disk hold every file of the folder, and its list."""
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
