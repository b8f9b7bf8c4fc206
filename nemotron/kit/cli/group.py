"""A group of a recipe as a click command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from medvllm_programs.commands import CONTEXT, LazyGroup
from nemotron.kit.cli.recipe import RecipeCommand

if TYPE_CHECKING:
    from nemotron.kit.app import Group

__all__ = ["KitGroup"]


class KitGroup(LazyGroup):
    """Makes the commands of an app's group when they are asked for."""

    def __init__(self, group: Group) -> None:
        self.group_spec = group
        super().__init__(
            name=group.name, help=group.description or f"Commands of {group.name}.", context_settings=CONTEXT
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order they were declared."""
        return list(self.group_spec.children)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command or group of that name, None where there is none."""
        from nemotron.kit.app import Group

        child = self.group_spec.children.get(cmd_name)
        if child is None:
            return None
        return KitGroup(child) if isinstance(child, Group) else RecipeCommand(child)
