"""`PROGRAM completion`: the completion script of a shell, of whichever program it is a command of."""

from __future__ import annotations

import click

from medvllm_programs.commands import CONTEXT

__all__ = ["completion"]

_HELP = """Print the completion script for SHELL.

\b
bash:  {program} completion bash > ~/.local/share/bash-completion/completions/{program}
zsh:   {program} completion zsh > "${{fpath[1]}}/_{program}"
fish:  {program} completion fish > ~/.config/fish/completions/{program}.fish"""


class _Completion(click.Command):
    """Its help names the program."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's, with the program's name."""
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(_HELP.format(program=ctx.find_root().info_name))


@click.command(cls=_Completion, context_settings=CONTEXT)
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Prints the script."""
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    assert script is not None  # Choice lists only shells that click knows
    program = ctx.find_root().info_name or ""
    variable = f"_{program.upper()}_COMPLETE"
    click.echo(script(ctx.find_root().command, {}, program, variable).source())
