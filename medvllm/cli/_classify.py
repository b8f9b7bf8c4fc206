"""`inference classification`: load the model, print the label."""

from __future__ import annotations

import json
from pathlib import Path

import click

from medvllm.cli._artifacts import local_model
from medvllm.cli._click import write_output
from medvllm.tasks.classification import TextClassifier
from medvllm_programs.commands import one_line

__all__ = ["run_classification"]


def run_classification(
    note: str,
    *,
    model: str,
    top: int | None,
    json_out: bool,
    output: Path | None,
    device: str,
    dtype: str,
    batch_size: int,
    allow_pickle: bool,
    trust_remote_code: bool,
) -> None:
    """Classifies one text; a file gets JSON always.

    Raises:
        MedvllmError: the model can't be had or used.
    """
    classifier = TextClassifier(
        local_model(model),
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )
    result = classifier.classify([note])[0]
    shown = json.dumps(result.to_dict(top=top), ensure_ascii=False)
    if output is not None:
        write_output(output, shown + "\n")
    elif json_out:
        click.echo(shown)
    else:
        for label, score in result.scores[: top or 1]:
            click.echo(f"{one_line(label)}  {score:.4f}")
