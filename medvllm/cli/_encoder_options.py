"""The options of commands that run an encoder model; nothing here imports torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medvllm.cli._click import all_of, need

if TYPE_CHECKING:
    from medvllm.tasks.batch import NERModel

__all__ = ["NERModelFlags", "encoder_options", "ner_model", "ner_model_options"]

AGGREGATIONS = ("first", "average", "max", "simple")


encoder_options = all_of(
    click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        help="Where the model runs  [default: auto]",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16", "int8"]),
        help="Of the model's weights  [default: auto: float32 on a CPU, bfloat16 on a GPU]",
    ),
    click.option("--batch-size", type=click.IntRange(min=1), help="Windows computed together  [default: 16]"),
    click.option("--allow-pickle", is_flag=True, help="Take weights in pickle files, which can run code when read."),
    click.option("--trust-remote-code", is_flag=True, help="Run Python code that comes with the model."),
)

ner_model_options = all_of(
    click.option(
        "--ensemble", is_flag=True, help="With --model: join its entities with those of the processor-only mode."
    ),
    click.option(
        "--label-map",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="With --model: JSON from its labels to our types, null for none.",
    ),
    click.option(
        "--aggregation",
        type=click.Choice(AGGREGATIONS),
        help="With --model: how the tokens of a word agree  [default: as the model's folder or tokenizer says]",
    ),
    encoder_options,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NERModelFlags:
    """The options of model-backed NER as given."""

    ensemble: bool
    label_map: Path | None
    aggregation: str | None
    device: str | None
    dtype: str | None
    batch_size: int | None
    allow_pickle: bool
    trust_remote_code: bool


def ner_model(name: str | None, flags: NERModelFlags) -> NERModel | None:
    """The model that the options of `inference ner` describe, checked against the registry; None without --model.

    Raises:
        click.UsageError: an option needs --model.
        MedvllmError: the registry says that the model does no NER, or the label map is broken.
    """
    given = {option: value for option, value in asdict(flags).items() if value}  # the rest is as NERModel has it
    if name is None:
        if given:
            flag = f"--{next(iter(given)).replace('_', '-')}"
            raise click.UsageError(f"{flag} is for model-backed NER; give --model too")
        return None
    from medvllm.cli._artifacts import local_model
    from medvllm.cli.inference_commands import check_model
    from medvllm.tasks.batch import NERModel
    from medvllm.tasks.model_ner_labels import read_label_map

    check_model(name, "ner")
    need("model-backed NER", "torch", "transformers")
    if flags.label_map:
        given["label_map"] = tuple(sorted(read_label_map(flags.label_map).items()))
    return NERModel(name=local_model(name), **given)
