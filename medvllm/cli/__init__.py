"""The `medvllm` command: groups `model`, `inference`, `training` and `ontology`.

Nothing heavy is imported here or for `--help`; each command imports what it needs when it runs.
"""

from __future__ import annotations

import click

import medvllm
from medvllm.cli._click import CONTEXT, LazyGroup, run

__all__ = ["cli", "main"]


@click.group(
    cls=LazyGroup,
    commands={
        "model": "medvllm.cli.model_commands:model",
        "inference": "medvllm.cli.inference_commands:inference",
        "training": "medvllm.cli.training_commands:training",
        "ontology": "medvllm.cli.ontology_commands:ontology",
        "completion": "medvllm.cli._completion:completion",
    },
    context_settings=CONTEXT,
)
@click.version_option(medvllm.__version__, prog_name="medvllm")
def cli() -> None:
    """Clinical NER and language models inside your own walls. Not for clinical use.

    No text leaves this machine.
    """


def main() -> None:
    """Console entry point: runs the command and exits with its code."""
    run(cli, prog_name="medvllm")
