"""A small program with what all programs share: lazy commands, errors in one line, exit codes, completion."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import click
import pytest

import medvllm
from medvllm_programs.commands import LazyGroup, note, one_line, run, version_option, warn
from medvllm_programs.errors import UserError, first_line


class WrongUsage(UserError):
    """As a program's own."""

    exit_code = 2


FAILURES = {
    "user": UserError("a file\nwas expected"),
    "usage": WrongUsage("no such key"),
    "disk": OSError(errno.ENOSPC, "No space left on device", "out.json"),
    "quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "explained": ModuleNotFoundError("no x"),
    "ours": ZeroDivisionError("a fault"),
    "stopped": KeyboardInterrupt(),
}


@click.group(
    cls=LazyGroup,
    commands={
        "completion": ("medvllm_programs.completion:completion", "Print the completion script."),
        "elsewhere": ("no.such.module:command", "What is imported only when it is called."),
    },
)
@version_option("small", "-v")
def cli() -> None:
    """A small program."""


@cli.command()
@click.argument("kind")
def fail(kind: str) -> None:
    """Fail in a way."""
    raise FAILURES[kind]


@cli.command("add")
def _add() -> None:
    """Return nothing."""
    note("all is\twell")
    warn("or not")


@cli.command(hidden=True)
def secret() -> None:
    """Not for the list."""


@pytest.fixture
def small(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """(exit code, stdout, stderr) of a command line."""
    handler = signal.getsignal(signal.SIGTERM)

    def call(*arguments: str) -> tuple[int, str, str]:
        def explain(error: Exception) -> str | None:
            return "install x" if isinstance(error, ModuleNotFoundError) else None

        with pytest.raises(SystemExit) as ended:
            run(cli, prog_name="small", argv=list(arguments), explain=explain)
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    yield call
    signal.signal(signal.SIGTERM, handler)


def test_help_lists_in_the_order_of_declaration_and_imports_nothing(small: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = small("--help")
    listed = out.split("Commands:\n")[1].split("\n")
    assert [line.split()[0] for line in listed if line] == ["completion", "elsewhere", "fail", "add"]
    assert "elsewhere   What is imported only when it is called." in out
    assert code == 0


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("user", 1, "Error: a file was expected\n"),
        ("usage", 2, "Error: no such key\n"),
        ("disk", 1, "Error: out.json: No space left on device; free some space and run the command again\n"),
        ("quota", 1, "Error: Disk quota exceeded; free some space and run the command again\n"),
        ("explained", 1, "Error: install x\n"),
        ("stopped", 130, "\nError: interrupted\n"),
    ],
)
def test_failures_are_one_line_with_their_code(
    small: Callable[..., tuple[int, str, str]], kind: str, code: int, said: str
) -> None:
    assert small("fail", kind) == (code, "", said)


def test_a_fault_that_nobody_explains_has_its_traceback(small: Callable[..., tuple[int, str, str]]) -> None:
    with pytest.raises(ZeroDivisionError, match="a fault"):
        small("fail", "ours")


def test_wrong_usage(small: Callable[..., tuple[int, str, str]]) -> None:
    assert small("ad")[::2] == (2, "Error: No such command 'ad'. Did you mean add? (see 'small --help')\n")
    assert "Commands: completion, elsewhere, fail, add" in small("xyz")[2]
    code, _, err = small("fail")
    assert (code, err) == (2, "Error: Missing argument 'KIND'. (see 'small fail --help')\n")


def test_notes(small: Callable[..., tuple[int, str, str]]) -> None:
    assert small("add") == (0, "", "Note: all is well\nWarning: or not\n")


def test_version(small: Callable[..., tuple[int, str, str]]) -> None:
    """In a checkout too. `medvllm.__version__` is what the package is built with."""
    assert small("-v") == small("--version") == (0, f"small, version {medvllm.__version__}\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_of_the_program_it_is_called_in(small: Callable[..., tuple[int, str, str]], shell: str) -> None:
    assert "_SMALL_COMPLETE" in small("completion", shell)[1]
    assert f"{shell}:" in small("completion", "--help")[1]
    assert 'small completion zsh > "${fpath[1]}/_small"' in small("completion", "--help")[1]
    assert small("completion", "cmd")[0] == 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\r\nb\t c ", "a b c"),
        ("\x1b[31mred\x9b", "\ufffd[31mred\ufffd"),
        ("right\u202eleft", "right\ufffdleft"),
        ("\udcff", "\ufffd"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_one_line_steers_no_terminal(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_first_line() -> None:
    assert first_line(ValueError("\n one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"


def test_closed_standard_streams_are_no_failure() -> None:
    """A file that is opened by the command must not get the number of a standard stream."""
    code = (
        "import click, os\n"
        "from medvllm_programs.commands import run\n"
        "@click.command()\n"
        "def cli(): click.echo('said'); raise SystemExit(0 if os.open('/', os.O_RDONLY) > 2 else 3)\n"
        "run(cli, prog_name='small')\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    shell = ["sh", "-c", '"$0" -c "$1" 0<&- 1>&- 2>&-', sys.executable, code]
    assert subprocess.run(shell, env=environment).returncode == 0
