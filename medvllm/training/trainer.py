"""MedicalModelTrainer: the training loop, from batches to a folder that holds the trained model.

A step reads its batches, adds up their gradients, clips, and updates the weights; after it come, where they are due,
a line of metrics, an evaluation, a checkpoint. A run that ends in any way goes on from its newest checkpoint to the
result that it would have had: on a CPU to the last bit.
"""

from __future__ import annotations

import dataclasses
import math
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medvllm.errors import MedvllmError
from medvllm.training.batches import Batch, check_dataset, example_batch, load, train_plan
from medvllm.training.checkpoint import (
    Position,
    changed_settings,
    checkpoint_of,
    load_weights,
    newest_checkpoint,
    prune,
    read_checkpoint,
    remove_after,
    restore,
    save_checkpoint,
    whole_weights,
)
from medvllm.training.config import TrainerConfig
from medvllm.training.distributed import Ranks, full, gradients_apart, open_ranks, share
from medvllm.training.evaluation import evaluate
from medvllm.training.export import export_model
from medvllm.training.interrupts import Interrupts
from medvllm.training.losses import compute_loss, count_targets, has_unused_weights, no_loss, to_device
from medvllm.training.metrics import MetricsLog
from medvllm.training.model_folder import find_tokenizer, write_json, write_model
from medvllm.training.plot import plot_losses
from medvllm.training.precision import choose_precision
from medvllm.training.progress import Progress
from medvllm.training.schedules import learning_rate, make_optimizer, momentum_of, set_rates
from medvllm.utils.files import write_atomically

__all__ = ["MedicalModelTrainer", "TrainResult", "seed_all"]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run came to. Losses are means over targets, in nats for cross-entropy; None: not measured."""

    output: Path
    steps: int
    epochs: float
    train_loss: float | None  # of the last line of metrics
    metrics: dict[str, float]  # of the model that was kept, on the evaluation data
    best_step: int | None  # None: the last step's model was kept
    resumed_step: int | None
    stopped_early: bool
    seconds: float  # of this process
    device: str
    precision: str
    ranks: int

    def to_dict(self) -> dict[str, Any]:
        """As in `--json`."""
        return {**dataclasses.asdict(self), "output": str(self.output)}


def seed_all(seed: int) -> None:
    """Seeds Python, numpy and torch, on every device."""
    import numpy

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class MedicalModelTrainer:
    """Trains a PyTorch or transformers model as a TrainerConfig says.

    `MedicalModelTrainer(TrainerConfig(output=Path("run"))).fit(model, train_dataset, eval_dataset)`
    """

    def __init__(self, config: TrainerConfig, *, origin: dict[str, Any] | None = None) -> None:
        """`origin` is written to trainer.json: where model and data come from."""
        self.config = config
        self.origin = origin or {}

    def fit(self, model: nn.Module, train_dataset: Any, eval_dataset: Any = None) -> TrainResult:
        """Trains the model, in place, and writes the run folder. Under torchrun every rank calls it.

        Args:
            model: its forward takes a batch: see `losses.compute_loss`.
            train_dataset: examples by number; its `collate_fn` makes batches, its `lengths` groups them.
            eval_dataset: as train_dataset; also its own metrics: see `evaluation.evaluate`.

        Raises:
            MedvllmError: data, model or checkpoint do not fit, the loss is no number, or the disk is full.
            KeyboardInterrupt: on Ctrl-C, after a checkpoint.
        """
        if not isinstance(model, nn.Module):
            raise MedvllmError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
        check_dataset(train_dataset, "training")
        if eval_dataset is not None:
            check_dataset(eval_dataset, "evaluation")
        elif self.config.metric != "loss" or self.config.early_stopping is not None:
            raise MedvllmError(
                "a best model by metric and early stopping need evaluation data; the entrypoint gives none"
            )
        with open_ranks(self.config.device, threads=self.config.threads) as ranks:
            return _Run(self.config, self.origin, model, train_dataset, eval_dataset, ranks).go()


class _Run:
    """One run: what does not change in it, and where it is."""

    def __init__(
        self,
        config: TrainerConfig,
        origin: dict[str, Any],
        model: nn.Module,
        train_dataset: Any,
        eval_dataset: Any,
        ranks: Ranks,
    ) -> None:
        self.config, self.origin, self.ranks = config, origin, ranks
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.folder = config.output / "checkpoints"
        self.precision = choose_precision(config, ranks)
        self.shifted = type(model).__name__.endswith("ForCausalLM")  # such a loss is over the next tokens
        self.weights: Tensor | None = getattr(model, "label_weights", None)  # its loss is a mean weighted by them
        if config.deterministic:
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.backends.cudnn.benchmark = False
        self.model = model.to(ranks.device)
        if not any(weight.requires_grad for weight in self.model.parameters()):
            raise MedvllmError("the model has no weight to train; all have requires_grad=False, or there is none")
        if ranks.count > 1 and config.parallel == "fsdp" and config.export:
            raise MedvllmError("--export is not for FSDP; run 'medvllm training export' on the run folder afterwards")
        self.module = self._shared()
        self.optimizer = make_optimizer(self.model, config)
        self.examples = len(train_dataset)
        self.steps_per_epoch = math.ceil(self.examples / (config.batch_size * config.grad_accum * ranks.count))
        self.total_steps = min(self.steps_per_epoch * config.epochs, config.max_steps or 2**62)
        self.position = Position()
        self.last_loss: float | None = None
        self.changed: list[str] = []  # settings that differ from those of the checkpoint

    def _shared(self) -> nn.Module:
        ranks, parallel = self.ranks, self.config.parallel
        unused = False
        if ranks.count > 1 and parallel == "ddp":
            unused = has_unused_weights(self.model, to_device(example_batch(self.train_dataset), ranks.device))
        return share(self.model, ranks, parallel=parallel, unused=unused)

    def go(self) -> TrainResult:
        """Trains from the checkpoint that the settings name, or from the start, to the end."""
        started = time.monotonic()
        if self.ranks.first:
            self.config.output.mkdir(parents=True, exist_ok=True)
        self.ranks.barrier()
        start = self._resume()
        log = MetricsLog(self.config, resumed_step=self.position.step) if self.ranks.first else None
        silent = not (self.ranks.first and self.config.progress)
        resumed_step = self.position.step
        try:
            with Interrupts() as asked, Progress(total=self.total_steps, done=resumed_step, silent=silent) as bar:
                for data in (self.train_dataset, self.eval_dataset):
                    for remark in getattr(data, "data_warnings", ()):
                        self._warn(bar, remark)
                self._say_resumed(start, bar)
                self._train(asked, bar, log)
                best = self._keep_best(bar)
        except BaseException:
            if log is not None:
                log.close(exit_code=1)
            raise
        if log is not None:
            log.close()
        result = self._result(start, resumed_step, best, time.monotonic() - started)
        self._finish(result)
        return result

    def _train(self, asked: Interrupts, bar: Progress, log: MetricsLog | None) -> None:
        position = self.position
        self.module.train()
        while position.step < self.total_steps and not position.stopped:
            epoch, began = position.epoch, time.perf_counter()
            for batches in self._steps_of_epoch():
                rate = self._set_rates()
                loss, norm, examples, stop = self._step(batches, asked.signal)
                position.step += 1
                position.step_in_epoch += 1
                if position.step_in_epoch == self.steps_per_epoch:
                    position.epoch, position.step_in_epoch = epoch + 1, 0
                position.loss_sum, position.loss_steps = position.loss_sum + loss, position.loss_steps + 1
                bar.update(position.step, loss=loss, lr=rate)
                if self._due(self.config.log_every):
                    seconds = time.perf_counter() - began
                    self._log_step(log, lr=rate, grad_norm=norm, examples_per_s=examples / seconds)
                improved = self._evaluate_if_due(bar, log)
                if improved or stop or self._due(self.config.save_every, by_epoch=True) or position.stopped:
                    self._save()
                if stop:
                    bar.note(f"interrupted after step {position.step}; the same command goes on from there")
                    asked.end()
                if position.step == self.total_steps or position.stopped:
                    return
                began = time.perf_counter()  # the next step begins with reading its examples

    def _steps_of_epoch(self) -> Iterator[list[tuple[Any, Batch]]]:
        """The batches of each step that is left of the epoch."""
        config, position = self.config, self.position
        steps = train_plan(
            self.examples,
            batch_size=config.batch_size,
            grad_accum=config.grad_accum,
            ranks=self.ranks.count,
            rank=self.ranks.rank,
            seed=config.seed,
            epoch=position.epoch,
            lengths=getattr(self.train_dataset, "lengths", None),
        )[position.step_in_epoch :]
        batches = load(
            self.train_dataset,
            [batch for step in steps for batch in step],
            seed=(config.seed << 20) + position.epoch,
            num_workers=config.num_workers,
            pin_memory=self.ranks.device.type == "cuda",
        )
        for step in steps:
            yield list(islice(batches, len(step)))

    def _step(self, batches: list[tuple[Any, Batch]], signal: int) -> tuple[float, float, int, bool]:
        """One update of the weights; loss, gradient norm and examples over all ranks, and whether one got a signal.

        Each batch counts by its targets, as though all batches of all ranks were one.
        """
        ranks, scaler = self.ranks, self.precision.scaler
        counts = [
            count_targets(batch, shifted=self.shifted, weights=self.weights) if numbers else 0.0
            for batch, numbers in batches
        ]
        counted, examples = self._totals(sum(counts), sum(len(numbers) for _, numbers in batches))
        counted = counted or 1.0  # no target at all: every part is 0
        summed = torch.zeros((), device=ranks.device)
        for place, ((batch, _), count) in enumerate(zip(batches, counts, strict=True)):
            with gradients_apart(self.module, apart=place < len(batches) - 1):
                with self.precision.autocast():
                    loss, output = compute_loss(self.module, to_device(batch, ranks.device))
                part = loss * (count / counted) if count else no_loss(output)
                scaler.scale(part * ranks.count).backward()  # the ranks' gradients are averaged
            summed += part.detach()
        loss_value, signalled = self._totals(float(summed), bool(signal))
        if not math.isfinite(loss_value):
            raise self._not_finite(f"the loss is {loss_value}")
        scaler.unscale_(self.optimizer)
        weights = [weight for weight in self.model.parameters() if weight.grad is not None]
        norm = float(full(nn.utils.clip_grad_norm_(weights, self.config.clip or math.inf)))
        if not math.isfinite(norm) and not scaler.is_enabled():  # an enabled scaler leaves the step out
            raise self._not_finite(f"the loss is {loss_value:g}, but the gradient's norm is {norm}")
        scaler.step(self.optimizer)
        scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if ranks.device.type == "xla":
            import torch_xla

            torch_xla.sync()
        return loss_value, norm, int(examples), bool(signalled)

    def _totals(self, *values: float) -> list[float]:
        """Sums over the ranks."""
        if self.ranks.count == 1:
            return [float(value) for value in values]
        summed = self.ranks.total(torch.tensor(values, dtype=torch.float64, device=self.ranks.device))
        return [float(value) for value in summed.tolist()]

    def _not_finite(self, what: str) -> MedvllmError:
        newest = newest_checkpoint(self.folder)
        kept = f"the last good checkpoint is {newest}" if newest else "no checkpoint was written before it"
        return MedvllmError(
            f"{what} at step {self.position.step + 1}; {kept}; try a lower --lr (now {self.config.lr:g}), "
            "--no-amp, or look at the data"
        )

    def _set_rates(self) -> float:
        step, config = self.position.step, self.config
        rate = learning_rate(step, config, total_steps=self.total_steps, steps_per_epoch=self.steps_per_epoch)
        momentum = momentum_of(step, config, total_steps=self.total_steps)
        set_rates(self.optimizer, lr=rate, momentum=momentum)
        return rate

    def _due(self, every: int | None, *, by_epoch: bool = False) -> bool:
        """After every so many steps, or (None, `by_epoch`) after an epoch; and after the last step."""
        if self.position.step == self.total_steps:
            return True
        if every is None:
            return by_epoch and self.position.step_in_epoch == 0
        return self.position.step % every == 0

    def _log_step(self, log: MetricsLog | None, *, lr: float, grad_norm: float, examples_per_s: float) -> None:
        position = self.position
        self.last_loss = position.loss_sum / position.loss_steps
        position.loss_sum, position.loss_steps = 0.0, 0
        if log is not None:
            log.write(
                position.step,
                {
                    "epoch": self._epochs(),
                    "loss": self.last_loss,
                    "lr": lr,
                    "grad_norm": grad_norm,
                    "examples_per_s": examples_per_s,
                },
            )

    def _epochs(self) -> float:
        return self.position.epoch + self.position.step_in_epoch / self.steps_per_epoch

    def _evaluate_if_due(self, bar: Progress, log: MetricsLog | None) -> bool:
        """Evaluates where it is due; whether the model is better than all before."""
        if self.eval_dataset is None or not self._due(self.config.eval_every, by_epoch=True):
            return False
        config, position = self.config, self.position
        values = self._evaluate()
        if config.metric not in values:
            raise MedvllmError(f"--metric {config.metric} is not among what the evaluation gives: {', '.join(values)}")
        value = values[config.metric]
        gain = math.inf if position.best_metric is None else value - position.best_metric
        if position.best_metric is not None and not config.larger_is_better:
            gain = -gain
        improved = math.isfinite(value) and gain > (
            config.early_stopping_delta if position.best_metric is not None else 0
        )
        position.stale = 0 if improved else position.stale + 1
        if improved:
            position.best_metric, position.best_step = value, position.step
            position.best_metrics = {name: number for name, number in values.items() if math.isfinite(number)}
        position.stopped = config.early_stopping is not None and position.stale >= config.early_stopping
        shown = "  ".join(f"{name} {number:.4g}" for name, number in values.items())
        bar.note(
            f"step {position.step}  epoch {self._epochs():.4g}  evaluation: {shown}{'  (best)' if improved else ''}"
        )
        if position.stopped:
            bar.note(f"stopped early: {position.stale} evaluations without a better {config.metric}")
        if log is not None:
            log.write(position.step, {"epoch": self._epochs(), **{f"eval_{name}": values[name] for name in values}})
        return improved

    def _evaluate(self) -> dict[str, float]:
        return evaluate(
            self.module,
            self.eval_dataset,
            ranks=self.ranks,
            precision=self.precision,
            batch_size=self.config.eval_batch_size or self.config.batch_size,
            shifted=self.shifted,
            weights=self.weights,
            num_workers=self.config.num_workers,
        )

    def _fixed(self) -> dict[str, Any]:
        """What a run must share with a checkpoint to go on from it exactly."""
        config = self.config
        return {
            "training examples": self.examples,
            "batch size over all ranks": config.batch_size * self.ranks.count,
            "gradient accumulation": config.grad_accum,
            "seed": config.seed,
            "optimizer": config.optimizer,
        }

    def _save(self) -> None:
        save_checkpoint(
            self.folder,
            self.model,
            self.optimizer,
            self.precision.scaler,
            self.position,
            fixed=self._fixed(),
            settings=self.config.to_dict(),
            ranks=self.ranks,
        )
        if self.ranks.first:
            prune(self.folder, keep=self.config.keep, best_step=self.position.best_step)

    def _resume(self) -> Path | None:
        """Goes to where the checkpoint is that the settings name; returns its folder, or None."""
        config, ranks = self.config, self.ranks
        start = {"auto": newest_checkpoint(self.folder), "none": None}.get(config.resume, Path(config.resume))
        seed_all(config.seed + 1 + ranks.rank)  # of dropout; the model's first weights were drawn before
        checkpoint = None
        if start is not None:
            checkpoint = read_checkpoint(start)
            restore(checkpoint, self.model, self.optimizer, self.precision.scaler, fixed=self._fixed(), ranks=ranks)
            self.position = position = checkpoint.position
            elsewhere = start.resolve().parent != self.folder.resolve()  # another run's: its best model is not here
            if elsewhere or self.eval_dataset is None:
                position.forget_best()
            elif checkpoint.settings.get("metric") != config.metric:
                position.measure_best_by(config.metric)
            position.stopped = config.early_stopping is not None and position.stale >= config.early_stopping
            self.changed = changed_settings(checkpoint.settings, config)
        ranks.barrier()  # all have read before the first one removes what will be trained anew
        if ranks.first:
            remove_after(self.folder, self.position.step)
        ranks.barrier()
        return start

    def _say_resumed(self, start: Path | None, bar: Progress) -> None:
        if start is None:
            return
        bar.note(f"going on from {start}: step {self.position.step} of {self.total_steps}")
        if self.changed:
            self._warn(bar, f"other settings than before: {', '.join(self.changed)}")
        if self.position.step >= self.total_steps or self.position.stopped:
            bar.note("the run is finished already; more --epochs go on, --resume none starts anew")

    def _warn(self, bar: Progress, text: str) -> None:
        if self.ranks.first:
            bar.note(f"Warning: {text}", always=True)

    def _keep_best(self, bar: Progress) -> int | None:
        """Puts the best model's weights into the model, where that is not the last; its step, or None."""
        best = self.position.best_step
        if best is None or best == self.position.step:
            return best
        folder = checkpoint_of(self.folder, best)
        if not folder.is_dir():
            self._warn(bar, f"the best model's checkpoint {folder} is gone; the last model is kept")
            return None
        load_weights(folder, self.model)
        return best

    def _result(self, start: Path | None, resumed_step: int, best: int | None, seconds: float) -> TrainResult:
        position = self.position
        return TrainResult(
            output=self.config.output,
            steps=position.step,
            epochs=self._epochs(),
            train_loss=self.last_loss,
            metrics=dict(position.best_metrics) if best is not None else {},
            best_step=best,
            resumed_step=resumed_step if start is not None else None,
            stopped_early=position.stopped,
            seconds=seconds,
            device=self.ranks.device.type,
            precision=self.precision.name,
            ranks=self.ranks.count,
        )

    def _finish(self, result: TrainResult) -> None:
        """Writes the run folder: the model, how it came about, the plot, further formats."""
        weights = whole_weights(self.model)
        tokenizer = find_tokenizer(self.model, self.train_dataset, self.eval_dataset)
        if self.ranks.first:
            config = self.config
            write_model(config.output, self.model, weights, tokenizer=tokenizer)
            record = {"settings": config.to_dict(), **self.origin, "result": result.to_dict()}
            write_json(config.output / "trainer.json", record)
            card = getattr(self.model, "model_card", None)
            if callable(card):
                write_atomically(config.output / "README.md", card(record).encode())
            if config.plot:
                plot_losses(config.output)
            formats = tuple(name for name in config.export if name != "safetensors")  # that one is there
            if formats:
                batch = example_batch(self.eval_dataset if self.eval_dataset is not None else self.train_dataset)
                export_model(self.model, batch, config.output, formats)
        elif tokenizer is not None and self.config.parallel == "fsdp":
            with tempfile.TemporaryDirectory() as aside:  # saving may run the model, which is in parts on all ranks
                tokenizer.save_pretrained(aside)
        self.ranks.barrier()
