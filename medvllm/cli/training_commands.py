"""`medvllm training`: train a model, and export one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from medvllm.cli._click import all_of, flags_named, need
from medvllm.errors import MedvllmError
from medvllm.training.config import (
    AMP_DTYPES,
    EXPORT_FORMATS,
    METRIC_MODES,
    OPTIMIZERS,
    PARALLEL,
    SCHEDULES,
    WANDB_MODES,
    TrainerConfig,
)
from medvllm_programs.commands import CONTEXT, Decorator, LazyGroup, one_line, warn

__all__ = ["training"]

DEFAULTS = TrainerConfig(output=Path())
COUNT = click.IntRange(min=1)
NONE_OR_MORE = click.IntRange(min=0)
ABOVE_0 = click.FloatRange(min=0, min_open=True)
FROM_0 = click.FloatRange(min=0)


@click.group(cls=LazyGroup, context_settings=CONTEXT)
def training() -> None:
    """Train models, and export them."""


def _setting(flag: str, help: str, *, field: str | None = None, **extra: Any) -> Decorator:
    """An option of a TrainerConfig field, with the default that the field has."""
    default = getattr(DEFAULTS, field or flag.lstrip("-").replace("-", "_"))
    shown = default is not None and not isinstance(default, bool)
    names = (flag, field) if field else (flag,)
    return click.option(*names, default=default, show_default=shown, help=help, **extra)


_source = all_of(
    click.option("--toy", is_flag=True, help="The built-in example: points of two spirals and a tiny MLP."),
    click.option(
        "--entrypoint",
        metavar="MODULE:FUNC",
        help="A function that returns (model, train_dataset, eval_dataset or None); also /path/to/file.py:func.",
    ),
    click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="A JSON object that is passed to the function.",
    ),
    click.option(
        "--output",
        type=click.Path(path_type=Path, file_okay=False),
        required=True,
        metavar="DIR",
        help="The run folder: model, checkpoints, metrics.",
    ),
)
_loop = all_of(
    _setting("--epochs", "Times over the data.", type=COUNT),
    _setting("--max-steps", "End after N steps.", type=COUNT, metavar="N"),
    _setting("--batch-size", "Examples at once, on each rank.", type=COUNT),
    _setting("--eval-batch-size", "As --batch-size, in evaluations  [default: the same]", type=COUNT, metavar="N"),
    _setting("--grad-accum", "Batches of one step.", type=COUNT),
    _setting("--lr", "Highest learning rate.", type=ABOVE_0),
    _setting("--optimizer", "How weights are updated.", type=click.Choice(OPTIMIZERS)),
    _setting("--weight-decay", "Of matrices; biases and norms have none.", type=FROM_0),
    _setting("--momentum", "Of SGD.", type=click.FloatRange(min=0, max=1, max_open=True)),
    _setting("--schedule", "How the rate changes over the steps.", type=click.Choice(SCHEDULES)),
    _setting("--warmup-steps", "Steps in which the rate rises from 0.", type=NONE_OR_MORE),
    _setting("--min-lr", "Rate at the end of linear, cosine and onecycle.", type=FROM_0),
    _setting("--step-epochs", "step: epochs between drops.", type=ABOVE_0),
    _setting("--step-gamma", "step: what the rate is multiplied by.", type=ABOVE_0),
    click.option(
        "--clip",
        type=FROM_0,
        default=DEFAULTS.clip,
        show_default=True,
        help="Greatest norm of a step's gradient; 0: any.",
    ),
    _setting("--seed", "Of first weights, order of examples, dropout.", type=click.IntRange(0, 2**32 - 1)),
)
_machine = all_of(
    _setting("--device", "Where to train.", type=click.Choice(["auto", "cpu", "cuda", "xla"])),
    _setting("--amp/--no-amp", "Mixed precision  [default: on CUDA only]", field="amp"),
    _setting("--amp-dtype", "auto: bfloat16; float16 on a GPU without it.", type=click.Choice(AMP_DTYPES)),
    _setting("--parallel", "How the ranks of torchrun share the work.", type=click.Choice(PARALLEL)),
    _setting("--threads", "CPU threads of a process  [default: one a core]", type=COUNT, metavar="N"),
    _setting("--num-workers", "Processes that load data; 0: none but this.", type=NONE_OR_MORE),
    _setting("--deterministic", "The same result each time on a GPU too; slower.", is_flag=True),
)
_keeping = all_of(
    _setting("--eval-every", "Steps between evaluations  [default: an epoch]", type=COUNT, metavar="N"),
    _setting("--metric", "Of the evaluation; says which model is best and is kept."),
    _setting("--metric-mode", "auto: min for a loss or error, else max.", type=click.Choice(METRIC_MODES)),
    _setting(
        "--early-stopping", "End after N evaluations without a better metric  [default: never]", type=COUNT, metavar="N"
    ),
    _setting("--early-stopping-delta", "By how much better counts.", type=FROM_0),
    _setting("--save-every", "Steps between checkpoints  [default: an epoch]", type=COUNT, metavar="N"),
    _setting("--keep", "Newest checkpoints that stay, beside the best.", type=COUNT),
    _setting(
        "--resume",
        "auto: from the newest checkpoint in --output; none: anew; or a checkpoint's folder.",
        metavar="FROM",
    ),
)
_reporting = all_of(
    _setting("--log-every", "Steps between lines of metrics.jsonl.", type=COUNT),
    _setting("--progress/--no-progress", "Progress on stderr.", field="progress"),
    _setting("--plot/--no-plot", "Draw loss.png at the end.", field="plot"),
    _setting("--tensorboard", "Write TensorBoard events too.", is_flag=True),
    _setting("--wandb", "Write a Weights & Biases run too.", is_flag=True),
    _setting("--wandb-project", "Its project."),
    _setting("--wandb-mode", "offline: nothing leaves this machine.", type=click.Choice(WANDB_MODES)),
    click.option(
        "--export",
        metavar="FORMATS",
        help=f"Formats of the model beside safetensors: {', '.join(EXPORT_FORMATS[1:])}, or both by a comma.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
)


@training.command("train")
@_source
@_loop
@_machine
@_keeping
@_reporting
def train(
    toy: bool,
    entrypoint: str | None,
    config_file: Path | None,
    clip: float,
    export: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a model and write a run folder, which 'model register' and 'inference' take as it is.

    \b
    medvllm training train --toy --epochs 2 --batch-size 32 --lr 1e-3 --output ./toy_run
    medvllm training train --entrypoint my_module:build --config small.json --epochs 3 --output ./runs/a
    torchrun --nproc-per-node 2 -m medvllm.cli training train --toy --output ./toy_run

    The same command again goes on where it ended. Nothing leaves this machine but by --wandb-mode online.
    """
    if toy == bool(entrypoint):
        raise click.UsageError("give one of --toy and --entrypoint MODULE:FUNC")
    if toy and config_file:
        raise click.UsageError("--config is for --entrypoint; --toy takes none")
    try:
        config = TrainerConfig(clip=clip or None, export=_formats(export), **settings)
    except MedvllmError as error:
        raise click.UsageError(flags_named(str(error))) from None
    reference = "medvllm.training.toy:build" if toy else str(entrypoint)
    from medvllm.training.entrypoint import build_objects, load_entrypoint, read_config

    given = read_config(config_file) if config_file else {}
    from medvllm.utils.device import resolve_device

    need("training", "torch", "safetensors", "numpy")
    resolve_device(config.device)  # before the data is read
    from medvllm.training.trainer import MedicalModelTrainer, seed_all

    seed_all(config.seed)
    model, train_data, eval_data = build_objects(load_entrypoint(reference), given, reference=reference)
    origin = {"entrypoint": reference, "config": given}
    result = MedicalModelTrainer(config, origin=origin).fit(model, train_data, eval_data)
    if os.environ.get("RANK", "0") == "0":
        click.echo(json.dumps(result.to_dict(), ensure_ascii=False) if as_json else _report(result))


def _formats(given: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in given.split(",") if name.strip())) if given else ()


def _report(result: Any) -> str:
    """The result in a few lines."""
    from medvllm.training.progress import duration

    rows = [
        ("steps", f"{result.steps} ({result.epochs:.4g} epochs{', stopped early' if result.stopped_early else ''})"),
        ("time", f"{duration(result.seconds)} on {result.device}, {result.precision}, ranks {result.ranks}"),
    ]
    if result.train_loss is not None:
        rows.append(("train loss", f"{result.train_loss:.4g}"))
    rows += [(f"eval {name}", f"{value:.4g}") for name, value in result.metrics.items()]
    if result.best_step is not None:
        rows.append(("model of", f"step {result.best_step}, the best"))
    rows.append(("model in", one_line(str(result.output))))
    return "\n".join(f"{name + ':':<16}{value}" for name, value in rows)


@training.command("export")
@click.argument("run", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option(
    "--format",
    "formats",
    default="onnx",
    show_default=True,
    metavar="FORMATS",
    help="onnx, torchscript, or both by a comma.",
)
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Where to  [default: RUN]"
)
@click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Run the entry point that the folder's trainer.json names; for models that are not of transformers.",
)
def export(run: Path, formats: str, output: Path | None, trust_remote_code: bool) -> None:
    """Write the model of a run folder as ONNX or TorchScript, and check it against PyTorch.

    \b
    medvllm training export ./runs/a --format onnx,torchscript
    """
    wanted = _formats(formats)
    if not wanted:
        raise click.UsageError("--format is empty; give onnx, torchscript, or both by a comma")
    need("export", "torch", "safetensors", "numpy")
    from medvllm.training.export import export_folder

    for made in export_folder(run, wanted, output or run, trust_remote_code=trust_remote_code):
        click.echo(f"{made.path}: differs from PyTorch by {made.max_error:.2g} at most")
        if made.note:
            warn(made.note)
