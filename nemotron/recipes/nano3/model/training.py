"""The training loop of pretraining and SFT: batches by number, AdamW, data-parallel ranks, checkpoints, progress."""

from __future__ import annotations

import math
import shutil
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from nemotron.kit.errors import KitError
from nemotron.kit.tracking import get_tracker
from nemotron.recipes.nano3.data.blend import Source
from nemotron.recipes.nano3.model.checkpoint import Position, load_checkpoint, newest_checkpoint, save_checkpoint
from nemotron.recipes.nano3.model.distributed import Ranks
from nemotron.recipes.nano3.model.llama import Llama
from nemotron.recipes.nano3.model.progress import Progress
from nemotron.recipes.nano3.model.settings import (
    CheckpointSettings,
    MachineSettings,
    OptimizerSettings,
    SchedulerSettings,
    TrainSettings,
)

__all__ = ["Plan", "Result", "learning_rate", "mean_loss", "train"]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that `train` needs beside model and data. `fixed` names what a checkpoint must share to be gone on from."""

    title: str
    train: TrainSettings
    optimizer: OptimizerSettings
    scheduler: SchedulerSettings
    checkpoint: CheckpointSettings
    machine: MachineSettings
    checkpoint_dir: Path
    seed: int
    fixed: dict[str, Any]
    force: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """Losses in nats a token: of the last iteration's batch, and of the valid split (None without one)."""

    iteration: int
    train_loss: float | None
    valid_loss: float | None


def learning_rate(iteration: int, *, total: int, optimizer: OptimizerSettings, scheduler: SchedulerSettings) -> float:
    """The rate of iteration 0, 1, … of `total`."""
    warmup = min(scheduler.lr_warmup_iters, total)
    if iteration < warmup:
        return optimizer.lr * (iteration + 1) / warmup
    if scheduler.lr_decay_style == "constant":
        return optimizer.lr
    done = (iteration - warmup) / max(total - warmup, 1)
    left = 0.5 * (1 + math.cos(math.pi * done)) if scheduler.lr_decay_style == "cosine" else 1 - done
    return optimizer.min_lr + (optimizer.lr - optimizer.min_lr) * left


def train(model: Llama, source: Source, valid: Source | None, plan: Plan, ranks: Ranks) -> Result:
    """Trains up to `plan.train.train_iters` iterations, from the newest checkpoint where there is one.

    Raises:
        KitError: batch sizes that do not divide, a checkpoint of other data or model, or a loss that is no number.
    """
    settings = plan.train
    micro_batches = _micro_batches(settings, ranks)
    model.to(ranks.device)
    optimizer = _adamw(model, plan.optimizer, ranks)
    iteration, loss = _resume(model, optimizer, plan, ranks)
    step_model = _Step(model)
    if plan.machine.compile:
        step_model = torch.compile(step_model)
    if ranks.count > 1:
        step_model = DistributedDataParallel(step_model)
    saved = iteration
    with Progress(
        plan.title, total=settings.train_iters, done=iteration, every=settings.log_interval, silent=not ranks.first
    ) as bar:
        while iteration < settings.train_iters:
            rate = learning_rate(
                iteration, total=settings.train_iters, optimizer=plan.optimizer, scheduler=plan.scheduler
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            started = time.perf_counter()
            loss = _step(step_model, model, optimizer, source, iteration, micro_batches, plan, ranks)
            iteration += 1
            if not math.isfinite(loss):
                raise KitError(
                    f"the loss is {loss} at iteration {iteration}; go on from the last checkpoint with a lower "
                    f"optimizer.lr (now {plan.optimizer.lr:g})"
                )
            tokens_per_s = settings.global_batch_size * source.seq_length / (time.perf_counter() - started)
            valid_loss = None
            if valid is not None and settings.eval_interval and iteration % settings.eval_interval == 0:
                valid_loss = mean_loss(model, valid, plan, ranks)
            _report(bar, iteration, plan, loss=loss, valid_loss=valid_loss, lr=rate, tokens_per_s=tokens_per_s)
            if iteration % plan.checkpoint.save_interval == 0 or iteration == settings.train_iters:
                position = Position(iteration, plan.fixed, loss)
                save_checkpoint(plan.checkpoint_dir, model, optimizer, position, keep=plan.checkpoint.keep, ranks=ranks)
                saved = iteration
    assert saved == iteration
    return Result(iteration, loss, mean_loss(model, valid, plan, ranks) if valid is not None else None)


class _Step(torch.nn.Module):
    """The loss as a module's forward, which is what DistributedDataParallel and compile take hold of."""

    def __init__(self, model: Llama) -> None:
        super().__init__()
        self.inner = model

    def forward(self, tokens: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        return self.inner.loss(tokens, targets, mask)


def _micro_batches(settings: TrainSettings, ranks: Ranks) -> int:
    at_once = settings.micro_batch_size * ranks.count
    if settings.global_batch_size % at_once:
        raise KitError(
            f"train.global_batch_size must be a multiple of micro_batch_size x ranks = {settings.micro_batch_size} x "
            f"{ranks.count}, got {settings.global_batch_size}"
        )
    return settings.global_batch_size // at_once


def _adamw(model: Llama, settings: OptimizerSettings, ranks: Ranks) -> torch.optim.AdamW:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in weights if weight.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [weight for weight in weights if weight.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (settings.adam_beta1, settings.adam_beta2)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=betas, eps=settings.adam_eps, fused=True)


def _resume(model: Llama, optimizer: torch.optim.Optimizer, plan: Plan, ranks: Ranks) -> tuple[int, float | None]:
    if plan.force:
        ranks.barrier()
        if ranks.first:
            shutil.rmtree(plan.checkpoint_dir, ignore_errors=True)
        ranks.barrier()
    torch.manual_seed(plan.seed + 1 + ranks.rank)  # of dropout; the weights were drawn before
    newest = newest_checkpoint(plan.checkpoint_dir) if plan.checkpoint.load else None
    if newest is None:
        return 0, None
    position = load_checkpoint(newest, model, optimizer, fixed=plan.fixed, ranks=ranks)
    return position.iteration, position.last_loss


def _step(
    step_model: torch.nn.Module,
    model: Llama,
    optimizer: torch.optim.Optimizer,
    source: Source,
    iteration: int,
    micro_batches: int,
    plan: Plan,
    ranks: Ranks,
) -> float:
    """One iteration; the mean loss over all counted tokens of the global batch."""
    first = iteration * plan.train.global_batch_size
    mine = range(first + ranks.rank, first + plan.train.global_batch_size, ranks.count)
    size = plan.train.micro_batch_size
    parts = [_on(source.batch(mine[at * size : (at + 1) * size]), ranks.device) for at in range(micro_batches)]
    counted = ranks.total(torch.stack([mask.sum() for _, _, mask in parts]).sum())
    total = torch.zeros((), device=ranks.device)
    for index, part in enumerate(parts):
        last = index == micro_batches - 1
        with _gradients_apart(step_model, apart=not last), _precision(plan.machine, ranks):
            loss = step_model(*part)
        # DistributedDataParallel takes the mean over ranks; the loss is the mean over tokens.
        (loss * (ranks.count / counted)).backward()
        total += loss.detach()
    torch.nn.utils.clip_grad_norm_(model.parameters(), plan.optimizer.clip_grad)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(ranks.total(total) / counted)


def _gradients_apart(step_model: torch.nn.Module, *, apart: bool) -> AbstractContextManager[Any]:
    """Between micro-batches gradients are only added up here; the last one sends them."""
    if apart and isinstance(step_model, DistributedDataParallel):
        apart_from_now: AbstractContextManager[Any] = step_model.no_sync()
        return apart_from_now
    return nullcontext()


def _precision(machine: MachineSettings, ranks: Ranks) -> AbstractContextManager[Any]:
    chosen: AbstractContextManager[Any] = torch.autocast(
        ranks.device.type, torch.bfloat16, enabled=machine.precision == "bf16"
    )
    return chosen


def _on(batch: tuple[Any, Any, Any], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    tokens, targets, mask = (torch.from_numpy(each).to(device, non_blocking=True) for each in batch)
    return tokens, targets, mask


def mean_loss(model: Llama, source: Source, plan: Plan, ranks: Ranks) -> float:
    """The mean loss in nats a token over `eval_iters` global batches, always the same ones."""
    settings = plan.train
    model.eval()
    total = torch.zeros(2, dtype=torch.float64, device=ranks.device)
    with torch.inference_mode(), _precision(plan.machine, ranks):
        for sample in range(ranks.rank, settings.eval_iters * settings.global_batch_size, ranks.count):
            part = _on(source.batch([sample]), ranks.device)
            total += torch.stack([model.loss(*part), part[2].sum()])
    model.train()
    summed, counted = ranks.total(total).tolist()
    return float(summed / counted)


def _report(bar: Progress, iteration: int, plan: Plan, **values: float | None) -> None:
    bar.update(iteration, **values)
    tracker = get_tracker()
    if tracker is not None and iteration % plan.train.log_interval == 0:
        tracker.log_metrics({name: value for name, value in values.items() if value is not None}, step=iteration)
