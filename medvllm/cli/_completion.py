"""`medvllm completion`: the completion script of a shell."""

from __future__ import annotations

import click

from medvllm.cli._click import CONTEXT

__all__ = ["completion"]


@click.command(context_settings=CONTEXT)
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash:  medvllm completion bash > ~/.local/share/bash-completion/completions/medvllm
    zsh:   medvllm completion zsh > "${fpath[1]}/_medvllm"
    fish:  medvllm completion fish > ~/.config/fish/completions/medvllm.fish
    """
    from click.shell_completion import get_completion_class

    from medvllm.cli import cli

    script = get_completion_class(shell)
    assert script is not None  # Choice lists only shells that click knows
    click.echo(script(cli, {}, "medvllm", "_MEDVLLM_COMPLETE").source())
