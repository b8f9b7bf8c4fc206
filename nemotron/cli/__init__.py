"""The `nemotron` command: recipes by their name, `artifacts`, and `completion`.

A recipe is imported when it is called; the help of the program imports those of $NEMOTRON_RECIPES only.
"""

from __future__ import annotations

import click

from medvllm_programs.commands import CONTEXT, LazyGroup, run, version_option
from nemotron.cli.recipes import BUILT_IN, load_recipe, named_by_environment, named_by_packages

__all__ = ["cli", "main"]


class _Program(LazyGroup):
    """The lazy commands, the built-in recipes, and the user's."""

    def _recipes(self) -> dict[str, str]:
        return (
            {name: reference for name, (reference, _) in BUILT_IN.items()}
            | named_by_packages()
            | named_by_environment()
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Recipes first."""
        return [*self._recipes(), *self.lazy]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command; installed packages are asked only where nothing nearer has the name."""
        if cmd_name in self.lazy:
            return super().get_command(ctx, cmd_name)
        for known in (named_by_environment, lambda: {n: r for n, (r, _) in BUILT_IN.items()}, named_by_packages):
            reference = known().get(cmd_name)
            if reference is not None:
                return load_recipe(reference)
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Recipes and commands in two lists."""
        own = [(name, f"Recipe of {reference}.") for name, reference in self._recipes().items() if name not in BUILT_IN]
        with formatter.section("Recipes"):
            formatter.write_dl([(name, said) for name, (_, said) in BUILT_IN.items()] + own)
        with formatter.section("Commands"):
            formatter.write_dl([(name, said) for name, (_, said) in self.lazy.items()])


@click.group(
    cls=_Program,
    commands={
        "artifacts": ("nemotron.cli.artifacts:artifacts", "List, show and trace artifacts."),
        "completion": ("medvllm_programs.completion:completion", "Print the completion script of a shell."),
    },
    context_settings=CONTEXT,
)
@version_option("nemotron")
def cli() -> None:
    """Training recipes: data, training and evaluation as typed commands, here or on a cluster."""


def main() -> None:
    """Console entry point: runs the command and exits with its code."""
    run(cli, prog_name="nemotron")
