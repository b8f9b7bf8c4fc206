"""`nemotron completion`: the completion script of a shell."""

from __future__ import annotations

import click

from nemotron.kit.cli._click import CONTEXT

__all__ = ["completion"]


@click.command(context_settings=CONTEXT)
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL: recipes, options, configurations, profiles and artifacts.

    \b
    bash:  nemotron completion bash > ~/.local/share/bash-completion/completions/nemotron
    zsh:   nemotron completion zsh > "${fpath[1]}/_nemotron"
    fish:  nemotron completion fish > ~/.config/fish/completions/nemotron.fish
    """
    from click.shell_completion import get_completion_class

    from nemotron.cli import cli

    script = get_completion_class(shell)
    assert script is not None  # Choice lists only shells that click knows
    click.echo(script(cli, {}, "nemotron", "_NEMOTRON_COMPLETE").source())
