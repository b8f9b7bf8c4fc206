"""The settings of a training run. No torch here, so that `--help` shows them quickly."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvllm.errors import MedvllmError

__all__ = [
    "AMP_DTYPES",
    "EXPORT_FORMATS",
    "METRIC_MODES",
    "OPTIMIZERS",
    "PARALLEL",
    "SCHEDULES",
    "WANDB_MODES",
    "TrainerConfig",
]

OPTIMIZERS = ("adamw", "adam", "sgd")
SCHEDULES = ("constant", "linear", "step", "cosine", "onecycle")
AMP_DTYPES = ("auto", "bfloat16", "float16")
METRIC_MODES = ("auto", "min", "max")
PARALLEL = ("ddp", "fsdp")
WANDB_MODES = ("offline", "online")
EXPORT_FORMATS = ("safetensors", "onnx", "torchscript")
DEVICES = ("auto", "cpu", "cuda", "xla")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerConfig:
    """All of a run but its model and data; checked when it is made.

    A step is one update of the weights: `grad_accum` batches of `batch_size` examples on every rank.

    Raises:
        MedvllmError: a value is out of range; the message names the field and its range.
    """

    output: Path  # the run folder
    epochs: int = 3
    max_steps: int | None = None  # end after so many steps, whatever `epochs` says
    batch_size: int = 16  # examples on one rank at once
    eval_batch_size: int | None = None  # None: batch_size
    grad_accum: int = 1  # batches of a step
    num_workers: int = 0  # processes that load data; 0: this one does

    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01  # of matrices; biases and norms have none
    momentum: float = 0.9  # of SGD
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    schedule: str = "linear"
    warmup_steps: int = 0  # from 0 up to `lr` in a line, before the schedule
    min_lr: float = 0.0  # where linear, cosine and onecycle end
    step_epochs: float = 1.0  # step: epochs between drops
    step_gamma: float = 0.1  # step: what the rate is multiplied by

    clip: float | None = 1.0  # greatest norm of a step's gradient; None: any
    amp: bool | None = None  # None: on CUDA only
    amp_dtype: str = "auto"  # auto: bfloat16, but float16 (with loss scaling) on a GPU without it

    device: str = "auto"
    parallel: str = "ddp"  # how ranks share the work, under torchrun
    threads: int | None = None  # CPU threads of a process; None: torch's choice
    deterministic: bool = False  # also on a GPU the same result each time, slower
    seed: int = 42

    eval_every: int | None = None  # steps; None: after each epoch
    metric: str = "loss"  # what of an evaluation says which model is best
    metric_mode: str = "auto"  # auto: min for a loss or error, else max
    early_stopping: int | None = None  # evaluations without a better metric; None: never
    early_stopping_delta: float = 0.0  # by how much better counts

    save_every: int | None = None  # steps; None: after each epoch
    keep: int = 2  # newest checkpoints that stay, beside the best
    resume: str = "auto"  # auto: the newest checkpoint in `output` if there is one; none; or a checkpoint folder

    log_every: int = 10  # steps between lines of metrics.jsonl
    progress: bool = True
    plot: bool = True
    tensorboard: bool = False
    wandb: bool = False
    wandb_project: str = "medvllm"
    wandb_mode: str = "offline"
    export: tuple[str, ...] = ()  # further formats of the model, of EXPORT_FORMATS

    def __post_init__(self) -> None:
        """Checks every field."""
        object.__setattr__(self, "output", Path(self.output))
        object.__setattr__(self, "export", tuple(self.export))
        for name in ("epochs", "batch_size", "grad_accum", "keep", "log_every"):
            self._at_least(name, 1)
        for name in ("max_steps", "eval_batch_size", "threads", "eval_every", "save_every", "early_stopping"):
            if getattr(self, name) is not None:
                self._at_least(name, 1)
        for name in ("num_workers", "warmup_steps", "seed"):
            self._at_least(name, 0)
        if self.seed >= 2**32:
            raise MedvllmError(f"seed must be below 2**32, got {self.seed}")
        for name in ("lr", "eps", "step_epochs", "step_gamma"):
            self._number(name, above=0.0)
        for name in ("weight_decay", "min_lr", "early_stopping_delta"):
            self._number(name, least=0.0)
        for name in ("momentum", "beta1", "beta2"):
            self._number(name, least=0.0, below=1.0)
        if self.clip is not None:
            self._number("clip", above=0.0)
        self._one_of("optimizer", OPTIMIZERS)
        self._one_of("schedule", SCHEDULES)
        self._one_of("amp_dtype", AMP_DTYPES)
        self._one_of("device", DEVICES)
        self._one_of("parallel", PARALLEL)
        self._one_of("metric_mode", METRIC_MODES)
        self._one_of("wandb_mode", WANDB_MODES)
        for name in self.export:
            if name not in EXPORT_FORMATS:
                raise MedvllmError(f"export takes {', '.join(EXPORT_FORMATS)}, got {name!r}")
        if self.min_lr > self.lr:
            raise MedvllmError(f"min_lr must be at most lr, which is {self.lr:g}, got {self.min_lr:g}")
        if not self.metric:
            raise MedvllmError("metric is empty; name one that the evaluation gives, such as loss")

    @property
    def larger_is_better(self) -> bool:
        """Whether the greatest `metric` is the best."""
        if self.metric_mode != "auto":
            return self.metric_mode == "max"
        return not any(word in self.metric.lower() for word in ("loss", "error", "perplexity"))

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON takes them."""
        fields = dataclasses.asdict(self)
        return {**fields, "output": str(self.output), "export": list(self.export)}

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise MedvllmError(f"{name} must be a whole number of at least {least}, got {value!r}")

    def _number(
        self, name: str, *, least: float | None = None, above: float | None = None, below: float | None = None
    ) -> None:
        value = getattr(self, name)
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        good = good and (least is None or value >= least) and (above is None or value > above)
        if not good or (below is not None and value >= below):
            bounds = [
                f"{word} {bound:g}"
                for word, bound in (("at least", least), ("above", above), ("below", below))
                if bound is not None
            ]
            raise MedvllmError(f"{name} must be a number {' and '.join(bounds)}, got {value!r}")

    def _one_of(self, name: str, valid: tuple[str, ...]) -> None:
        if getattr(self, name) not in valid:
            raise MedvllmError(f"{name} must be one of {', '.join(valid)}, got {getattr(self, name)!r}")
