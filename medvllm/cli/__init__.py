"""The `medvllm` command: groups `model`, `inference`, `training` and `ontology`.

Nothing heavy is imported here or for `--help`; each command imports what it needs when it runs.
"""

from __future__ import annotations

import click

import medvllm
from medvllm.cli._click import explain
from medvllm_programs.commands import CONTEXT, LazyGroup, run

__all__ = ["cli", "main"]


@click.group(
    cls=LazyGroup,
    commands={
        "model": ("medvllm.cli.model_commands:model", "Manage the model registry."),
        "inference": (
            "medvllm.cli.inference_commands:inference",
            "Run inference: named entities with ontology links, text generation, text classification.",
        ),
        "training": ("medvllm.cli.training_commands:training", "Train models, and export them."),
        "ontology": (
            "medvllm.cli.ontology_commands:ontology",
            "Look into the vocabularies that entities are linked to, and add your own.",
        ),
        "completion": ("medvllm_programs.completion:completion", "Print the completion script for SHELL."),
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
    run(cli, prog_name="medvllm", explain=explain)
