"""What every command shares: lazy groups, suggestions, one-line errors and exit codes."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import click

from llenergymeasure.errors import LemError, LemUsageError

__all__ = ["CONTEXT", "LazyGroup", "note", "one_line", "run"]

# What the extra `lem` brings, under the names that are imported.
_EXTRA = {"datasets", "dotenv", "huggingface_hub", "matplotlib", "numpy", "psutil", "pydantic", "questionary", "rich"}
_EXTRA |= {"filelock", "pyarrow", "scipy", "yaml"}
CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class LazyGroup(click.Group):
    """A group of commands given as `name: (module:attribute, help)`, imported when they are called."""

    def __init__(self, *args: Any, commands: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = dict(commands or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order they were declared."""
        return [*self.lazy, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports and returns the command, or None where there is none of that name."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, attribute = self.lazy[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing the lazy ones."""
        rows = [(name, said) for name, (_, said) in self.lazy.items()]
        rows += [(name, command.get_short_help_str(80)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the nearest names for an unknown command."""
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not ctx.resilient_parsing and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
            hint = f" Did you mean {' or '.join(near)}?" if near else f" Commands: {', '.join(known)}."
            ctx.fail(f"No such command '{name}'.{hint}")
        return super().resolve_command(ctx, args)


def one_line(text: str) -> str:
    """A text in one line, without what would steer a terminal: names of files and keys come from anywhere."""
    return " ".join("".join(char if char.isprintable() or char.isspace() else "�" for char in text).split())


def note(message: str, *, kind: str = "Note") -> None:
    """One line of notice on stderr: `Note: …` or `Warning: …`."""
    click.echo(f"{kind}: {one_line(message)}", err=True)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"Error: {one_line(message)}", err=True)
    sys.exit(code)


def run(command: click.Command, *, prog_name: str, argv: list[str] | None = None) -> NoReturn:
    """Runs a command line and exits: 0 done, 1 failed, 2 wrong usage, 130 interrupted; our errors are one line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # any text can be shown, under any locale
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an orderly end: locks and temporary files go
    try:
        code = command.main(args=argv, prog_name=prog_name, standalone_mode=False)  # of ctx.exit(), else None
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.UsageError as error:
        context = f" (see '{error.ctx.command_path} --help')" if error.ctx else ""
        _fail(error.format_message() + context, error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except LemUsageError as error:
        _fail(str(error), 2)
    except LemError as error:
        _fail(str(error), 1)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in _EXTRA:
            raise
        _fail(f"{error.name} is not installed; pip install 'medvllm[lem]'", 1)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader (head, less) has gone: nothing is left to say, and the flush at exit must not say it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)
