"""Learning rates and optimisers: the rate is a function of the step alone, so a schedule has no state to lose."""

from __future__ import annotations

import math
from typing import Any

import torch

from medvllm.training.config import TrainerConfig

__all__ = ["learning_rate", "make_optimizer", "momentum_of", "set_rates"]

_ONECYCLE_START = 25.0  # the first rate is lr / 25 (Smith and Topin 2018, and PyTorch's OneCycleLR)
_ONECYCLE_RISE = 0.3  # of the steps, where warmup_steps does not say
_ONECYCLE_MOMENTUM = (0.85, 0.95)  # lowest where the rate is highest


def learning_rate(step: int, config: TrainerConfig, *, total_steps: int, steps_per_epoch: int) -> float:
    """The rate of step 0, 1, … of `total_steps`."""
    if config.schedule == "onecycle":
        rise = _rise_steps(config, total_steps)
        low = config.lr / _ONECYCLE_START
        if step <= rise:
            return _cosine(low, config.lr, step / rise)
        return _cosine(config.lr, config.min_lr, (step - rise) / max(total_steps - 1 - rise, 1))
    warmup = min(config.warmup_steps, total_steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "step":
        drops = math.floor(step / (config.step_epochs * steps_per_epoch) + 1e-9)
        return config.lr * config.step_gamma**drops
    done = (step - warmup) / max(total_steps - warmup, 1)
    if config.schedule == "cosine":
        return _cosine(config.lr, config.min_lr, done)
    return config.lr + (config.min_lr - config.lr) * done


def momentum_of(step: int, config: TrainerConfig, *, total_steps: int) -> float | None:
    """SGD's momentum, or Adam's beta1, at a step of a one-cycle schedule; None where it stays as it is."""
    if config.schedule != "onecycle":
        return None
    lowest, highest = _ONECYCLE_MOMENTUM
    rise = _rise_steps(config, total_steps)
    if step <= rise:
        return _cosine(highest, lowest, step / rise)
    return _cosine(lowest, highest, (step - rise) / max(total_steps - 1 - rise, 1))


def _rise_steps(config: TrainerConfig, total_steps: int) -> float:
    """Where the rate is highest, counted from step 0; PyTorch's OneCycleLR places it between steps as well."""
    return max(float(min(config.warmup_steps, total_steps - 1)) or _ONECYCLE_RISE * total_steps - 1, 1.0)


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0)))


def make_optimizer(model: torch.nn.Module, config: TrainerConfig) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD over the weights that are trained; those of one dimension have no weight decay.

    A weight's attribute `lr_scale`, 1 where there is none, is what its rate is multiplied by.
    """
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for weight in model.parameters():
        if weight.requires_grad:
            decays, scale = weight.dim() >= 2, float(getattr(weight, "lr_scale", 1.0))
            decay = config.weight_decay if decays else 0.0
            group = groups.setdefault((decays, scale), {"params": [], "weight_decay": decay, "lr_scale": scale})
            group["params"].append(weight)
    # One kernel for all that an update does to a weight: 22 ms instead of 198 for 22.6 M weights of AdamW on one core
    # (AMD EPYC). XLA fuses by itself; sharded weights keep the plain way.
    fused = all(w.device.type in ("cpu", "cuda") and not hasattr(w, "device_mesh") for w in model.parameters())
    if config.optimizer == "sgd":
        return torch.optim.SGD(list(groups.values()), lr=config.lr, momentum=config.momentum, fused=fused)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    betas = (config.beta1, config.beta2)
    return kind(list(groups.values()), lr=config.lr, betas=betas, eps=config.eps, fused=fused)


def set_rates(optimizer: torch.optim.Optimizer, *, lr: float, momentum: float | None) -> None:
    """Gives every group its rate, and its momentum where that changes too."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
        if momentum is None:
            continue
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum
