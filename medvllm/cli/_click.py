"""What several commands share: groups of options, output that is whole or not there, and how a failure is told."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from medvllm.errors import MedvllmError, missing
from medvllm_programs.commands import Decorator

__all__ = ["all_of", "complete_model", "counted", "explain", "flags_named", "need", "taken", "unless", "write_output"]


def all_of(*options: Decorator) -> Decorator:
    """The decorators as one, in the order in which --help lists them."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def unless(flag: str, name: str, *, help: str) -> Decorator:
    """A flag --no-… whose value is that of `name`: True unless it is given."""
    return click.option(flag, name, is_flag=True, callback=lambda _ctx, _param, value: not value, help=help)


def taken(given: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The options of these names, which are no longer in `given` then."""
    return {name: given.pop(name) for name in names}


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Registered names that begin so, for the shell's completion."""
    from medvllm.cli.model_commands import complete_name

    return complete_name(ctx, param, incomplete)


def flags_named(message: str) -> str:
    """The message of a settings class with the field that it begins with as the command line's flag."""
    return re.sub(
        r"^([a-z]+(?:_[a-z]+)*)(?= (?:must|takes|is) )",
        lambda name: "-n" if name[1] == "n" else f"--{name[1].replace('_', '-')}",
        message,
    )


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number with its noun: 1 note, 2,000 notes."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def need(what: str, *packages: str, extra: str = "torch") -> None:
    """Raises MedvllmError where a package of an extra, which `what` runs on, is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MedvllmError(f"{what} needs {package}, which is not installed; {missing(extra)}")


def write_output(path: str | Path, text: str) -> None:
    """Writes a result file whole or not at all: a temporary file in the same folder, then a rename."""
    from medvllm.utils.files import write_atomically

    write_atomically(Path(path), text.encode("utf-8"))


def explain(error: Exception) -> str | None:
    """An exception in one line; a fault of ours with the way to its traceback, which $MEDVLLM_DEBUG shows."""
    if isinstance(error, OSError):
        return _os_error_text(error)
    if isinstance(error, MemoryError):
        return "the input does not fit into memory; give smaller files"
    if os.environ.get("MEDVLLM_DEBUG"):
        return None
    return f"internal error: {type(error).__name__}: {error}; MEDVLLM_DEBUG=1 shows where"


def _os_error_text(error: OSError) -> str:
    """Which file, what happened, and the remedy where there is a known one."""
    where = f"{error.filename}: " if error.filename else ""
    remedies = {
        errno.EACCES: "; check its permissions",
        errno.EROFS: "; choose a writable place (--output, or MEDVLLM_HOME for the registry)",
    }
    return f"{where}{error.strerror or error}{remedies.get(error.errno or 0, '')}"
