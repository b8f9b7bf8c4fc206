"""`lem completion`: the completion script of a shell."""

from __future__ import annotations

import click

from llenergymeasure.cli._click import CONTEXT

__all__ = ["completion"]


@click.command(context_settings=CONTEXT)
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash:  lem completion bash > ~/.local/share/bash-completion/completions/lem
    zsh:   lem completion zsh > "${fpath[1]}/_lem"
    fish:  lem completion fish > ~/.config/fish/completions/lem.fish
    """
    from click.shell_completion import get_completion_class

    from llenergymeasure.cli import cli

    script = get_completion_class(shell)
    assert script is not None  # Choice lists only shells that click knows
    click.echo(script(cli, {}, "lem", "_LEM_COMPLETE").source())
