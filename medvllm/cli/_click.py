"""What every command shares: lazy groups, suggestions, one-line errors, atomic output."""

from __future__ import annotations

import difflib
import errno
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from medvllm.errors import MedvllmError

__all__ = ["CONTEXT", "Decorator", "LazyGroup", "all_of", "plain", "run", "warn", "write_output"]

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


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
            near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
            hint = f" Did you mean {' or '.join(near)}?" if near else f" Commands: {', '.join(known) or 'none yet'}."
            ctx.fail(f"No such command '{name}'.{hint}")
        return super().resolve_command(ctx, args)


def warn(message: str) -> None:
    """One line of warning on stderr."""
    click.echo(f"Warning: {plain(message)}", err=True)


def all_of(*options: Decorator) -> Decorator:
    """The decorators as one, in the order in which --help lists them."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def plain(text: str) -> str:
    """A text in one line, without what would steer a terminal: names of files and models come from anywhere."""
    from medvllm.tasks.formats.plain import one_line

    return one_line(text)


def write_output(path: str | Path, text: str) -> None:
    """Writes a result file whole or not at all: a temporary file in the same folder, then a rename."""
    from medvllm.utils.files import write_atomically

    write_atomically(Path(path), text.encode("utf-8"))


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"Error: {plain(message)}", err=True)
    sys.exit(code)


def _os_error_text(error: OSError) -> str:
    """An OSError as a user reads it: which file, what happened, and the remedy where there is a known one."""
    where = f"{error.filename}: " if error.filename else ""
    remedies = {
        errno.ENOSPC: "; free some space and run the command again",
        errno.EACCES: "; check its permissions",
        errno.EROFS: "; choose a writable place (--output, or MEDVLLM_HOME for the registry)",
    }
    return f"{where}{error.strerror or error}{remedies.get(error.errno or 0, '')}"


def run(command: click.Command, *, prog_name: str) -> NoReturn:
    """Runs a command line and exits: 0 done, 1 failed, 2 wrong usage, 130 interrupted; errors are one line."""
    _prepare_process()
    try:
        # click returns the code of `ctx.exit()` and of an `Exit` that is raised; of other commands what they return.
        code = command.main(prog_name=prog_name, standalone_mode=False)
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
    except Exception as error:  # a fault of ours: still one line, and the way to the traceback
        if os.environ.get("MEDVLLM_DEBUG"):
            raise
        _fail(f"internal error: {type(error).__name__}: {error}; MEDVLLM_DEBUG=1 shows where", 1)
    sys.exit(code if isinstance(code, int) else 0)


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
