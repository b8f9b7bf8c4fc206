"""`medvllm training`: the group that training commands register in."""

from __future__ import annotations

import click

from medvllm.cli._click import CONTEXT, LazyGroup

__all__ = ["training"]


@click.group(cls=LazyGroup, commands={}, context_settings=CONTEXT)
def training() -> None:
    """Train models. This version has no training command yet."""
