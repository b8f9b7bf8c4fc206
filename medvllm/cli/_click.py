"""What every command shares: lazy groups, suggestions, one-line errors, atomic output."""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from medvllm.errors import MedvllmError

__all__ = ["CONTEXT", "LazyGroup", "run", "warn", "write_output"]

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class LazyGroup(click.Group):
    """A group whose commands are given as `name: "module:attribute"` and imported when asked for."""

    def __init__(self, *args: Any, commands: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = commands or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order they were declared."""
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports and returns the command, or None where there is none of that name."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, attribute = self.lazy[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the nearest names for an unknown command."""
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing and not name.startswith("-"):
            known = self.list_commands(ctx)
            near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
            hint = f" Did you mean {' or '.join(near)}?" if near else f" Commands: {', '.join(known)}."
            ctx.fail(f"No such command '{name}'.{hint}")
        return super().resolve_command(ctx, args)


def warn(message: str) -> None:
    """One line of warning on stderr."""
    click.echo(f"Warning: {message}", err=True)


def write_output(path: str | Path, text: str) -> None:
    """Writes a result file whole or not at all: a temporary file in the same folder, then a rename."""
    from medvllm.utils.files import write_atomically

    write_atomically(Path(path), text.encode("utf-8"))


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _os_error_text(error: OSError) -> str:
    """An OSError as a user reads it: which file, what happened, and the remedy where there is a known one."""
    where = f"{error.filename}: " if error.filename else ""
    remedies = {
        errno.ENOSPC: "; free some space and run the command again",
        errno.EACCES: "; check the permissions, or choose another place",
        errno.EROFS: "; choose a writable place (--output, or MEDVLLM_HOME for the registry)",
    }
    return f"{where}{error.strerror or error}{remedies.get(error.errno or 0, '')}"


def run(command: click.Command, *, prog_name: str) -> NoReturn:
    """Runs a command line and exits: 0 done, 1 failed, 2 wrong usage, 130 interrupted; errors are one line."""
    try:
        command.main(prog_name=prog_name, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.UsageError as error:
        context = f" (see '{error.ctx.command_path} --help')" if error.ctx else ""
        _fail(error.format_message() + context, error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except MedvllmError as error:
        _fail(str(error), 1)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader (head, less) has gone: nothing is left to say, and the flush at exit must not say it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _fail(_os_error_text(error), 1)
    except MemoryError:
        _fail("the input does not fit into memory; give smaller files", 1)
    sys.exit(0)
