"""Command lines: groups whose commands are imported when they are called, and one-line errors with exit codes."""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import click

from medvllm_programs import __version__
from medvllm_programs.errors import UserError

__all__ = ["CONTEXT", "Decorator", "LazyGroup", "note", "one_line", "reader_gone", "run", "version_option", "warn"]

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


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
        rows = []
        for name in self.list_commands(ctx):
            if name in self.lazy:
                rows.append((name, self.lazy[name][1]))
            elif (command := self.get_command(ctx, name)) is not None and not command.hidden:
                rows.append((name, command.get_short_help_str(80)))
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the nearest names for an unknown command."""
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing and not name.startswith("-"):
            import difflib

            known = self.list_commands(ctx)
            near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
            hint = f" Did you mean {' or '.join(near)}?" if near else f" Commands: {', '.join(known) or 'none yet'}."
            ctx.fail(f"No such command '{name}'.{hint}")
        return super().resolve_command(ctx, args)


def version_option(program: str, *flags: str) -> Decorator:
    """`--version` (and `flags`) of a program: all come in one package, and have its version."""

    def show(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
        if asked and not ctx.resilient_parsing:
            click.echo(f"{program}, version {__version__}")
            ctx.exit()

    return click.option(
        "--version",
        *flags,
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="Show the version and exit.",
    )


def one_line(text: str) -> str:
    """A text in one line, without what would steer a terminal: names of files and keys come from anywhere.

    The joiners, without which words of Persian and of Indian scripts are misspelt, stay.
    """
    kept = (char if char.isprintable() or char.isspace() or char in "\u200c\u200d" else "\ufffd" for char in text)
    return " ".join("".join(kept).split())


def note(message: str, *, kind: str = "Note") -> None:
    """One line on stderr: `Note: …`, `Warning: …` or `Error: …`."""
    click.echo(f"{kind}: {one_line(message)}", err=True)


def warn(message: str) -> None:
    """One line of warning on stderr."""
    note(message, kind="Warning")


def _nothing(_error: Exception) -> None:
    return None


def reader_gone() -> NoReturn:
    """Exits with 0 where the reader of stdout (head, less) has gone: nothing is left to say, nor to flush at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def run(
    command: click.Command,
    *,
    prog_name: str,
    argv: list[str] | None = None,
    explain: Callable[[Exception], str | None] = _nothing,
) -> NoReturn:
    """Runs a command line and exits: 0 done, 1 failed, 2 wrong usage, 130 interrupted; errors are one line.

    Args:
        command: the program.
        prog_name: its name in usage lines.
        argv: the arguments; `sys.argv` without it.
        explain: what to say of an exception that is neither a UserError nor a full disk; None: its traceback is shown.
    """
    _prepare_process()
    try:
        # click returns the code of `ctx.exit()` and of an `Exit` that is raised; of other commands what they return.
        code = command.main(args=argv, prog_name=prog_name, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.UsageError as error:
        context = f" (see '{error.ctx.command_path} --help')" if error.ctx else ""
        _fail(error.format_message() + context, error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except UserError as error:
        _fail(str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except BrokenPipeError:
        reader_gone()
    except Exception as error:
        said = _full_disk(error) or explain(error)
        if said is None:
            raise
        _fail(said, 1)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    note(message, kind="Error")
    sys.exit(code)


def _full_disk(error: Exception) -> str | None:
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror}; free some space and run the command again"


def _prepare_process() -> None:
    """Standard streams that are open and take any text, and an orderly end on SIGTERM: temporary files go."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    sys.stdin = sys.stdin or open(0)  # noqa: SIM115 (open as long as the process)
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
