"""Bad input gets one clear line and the right exit code; never a traceback, never a half-written file."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

NER = ("inference", "ner")


def _failed(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done
    errors = [line for line in done.stderr.splitlines() if not line.startswith("Warning:")]
    assert len(errors) == 1, done.stderr
    for word in words:
        assert word in errors[0]
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["infrence"], ["No such command 'infrence'", "inference"]),
        (["model", "lst"], ["No such command 'lst'", "list"]),
        ([*NER, "--input", "a.txt", "b.txt"], ["what is 'b.txt' for?", "Quote a glob"]),
        ([*NER, "--txt", "x"], ["No such option '--txt'", "--text"]),
        ([*NER, "--text", "x", "--input", "y"], ["--text and --input exclude each other"]),
        ([*NER, "--text", "x", "--json-out", "--format", "csv"], ["--json-out is --format json"]),
        ([*NER, "--text", "x", "--format", "xml"], ["'xml' is not one of", "'table'"]),
        ([*NER, "--text", "x", "--ontology", "ICD9"], ["--ontology", "unknown ontology 'ICD9'", "UMLS, MESH, ICD10CM"]),
        (["training", "train", "--toy", "--output", "r", "--epochs", "0"], ["'--epochs'", "x>=1"]),
        (["training", "train", "--toy", "--output", "r", "--lr", "-1"], ["'--lr'", "x>0"]),
        (["training", "train", "--toy", "--output", "r", "--min-lr", "2"], ["--min-lr must be at most lr"]),
        (["model", "info"], ["name a model"]),
        (["model", "register", "a", "org/a", "--param", "novalue"], ["KEY=VALUE"]),
    ],
)
def test_wrong_usage_exits_with_2(run: Any, arguments: list[str], words: list[str]) -> None:
    _failed(run(*arguments), 2, *words)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.txt", None, ["there is no file missing.txt"]),
        ("empty.txt", b"", ["empty.txt is empty"]),
        ("blank.txt", b" \n\t\n", ["blank.txt is empty"]),
        ("image.txt", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", ["a PNG image, not text"]),
        ("binary.txt", bytes(range(256)) * 10, ["not text"]),
        ("zeros.txt", b"a\x00b\x00", ["zero byte", "--encoding utf-16"]),
        ("latin.txt", "Ménière’s".encode("cp1252"), ["not valid utf-8 at byte 1", "--encoding windows-1252"]),
        ("broken.pdf", b"%PDF-1.4 nothing", ["broken.pdf is not a PDF that can be read"]),
        ("notes.jsonl", b'{"text": "HTN"\n', ["1 of 1 notes could not be read"]),
    ],
)
def test_bad_files(run: Any, name: str, content: bytes | None, words: list[str]) -> None:
    if content is not None:
        (run.work / name).write_bytes(content)
    done = run(*NER, "--input", name)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1].lower()
    for word in words:
        assert word.lower() in last


def test_other_bad_input(run: Any) -> None:
    _failed(run(*NER, "--text", ""), 1, "--text is empty")
    _failed(run(*NER, input=""), 1, "stdin is empty")
    _failed(
        run(*NER, "--text", "x", "--encoding", "utf8x", "--input-format", "text", "--output", "no/such/f"),
        1,
        "no/such",
    )
    (run.work / "folder").mkdir()
    _failed(run(*NER, "--input", "folder"), 1, "folder holds no notes")
    _failed(run(*NER, "--text", "x", "--model", "biogpt"), 1, "Model 'biogpt' does not support task 'ner'")
    _failed(run("ontology", "lookup", "qwertyuiop"), 1, "no vocabulary here has the term")
    _failed(run("ontology", "lookup", "heart atack"), 1, "did you mean heart attack?")
    _failed(run("model", "unregister", "biogtp"), 1, "biogpt")
    _failed(run("model", "info", "biogtp"), 1, "biogpt")


def test_an_unregistered_model_is_warned_of(run: Any) -> None:
    done = run(*NER, "--text", "x", "--model", "org/unknown")
    assert "Warning: Model 'org/unknown' is not registered; skipping task validation" in done.stderr


def test_no_input_on_a_terminal_is_wrong_usage(run: Any) -> None:
    """A pseudo-terminal as stdin: nothing is piped."""
    import pty
    import sys

    master, slave = pty.openpty()
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    done = subprocess.run(
        [sys.executable, "-m", "medvllm.cli", *NER],
        stdin=slave,
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    os.close(master)
    os.close(slave)
    assert done.returncode == 2
    assert "no input: give --text, --input, or pipe a text in" in done.stderr


def test_a_home_that_can_not_be_written(run: Any) -> None:
    blocked = run.home / "file"
    blocked.write_text("a file, not a folder: even root can't make a folder in it")
    done = run("model", "register", "a", "org/a", MEDVLLM_HOME=str(blocked / "m"))
    _failed(done, 1, str(blocked))
    assert run(*NER, "--text", "HTN", MEDVLLM_HOME=str(blocked / "m")).returncode == 0, "NER needs no home"


def test_a_broken_registry_is_kept_and_said(run: Any) -> None:
    home = run.home / "m"
    home.mkdir()
    (home / "registry.json").write_text("{broken")
    done = run("model", "list")
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "not JSON" in done.stderr
    assert (home / "registry.json.broken-1").read_text() == "{broken"
    assert "biogpt" in done.stdout


def test_a_full_disk_is_said(run: Any) -> None:
    """/dev/full takes no byte."""
    done = run(*NER, "--text", "HTN", "--output", "/dev/full")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_closed_pipe_is_no_error(run: Any) -> None:
    import sys

    (run.work / "n.jsonl").write_text('{"id": 1, "text": "HTN"}\n' * 5000)
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    process = subprocess.Popen(
        [sys.executable, "-m", "medvllm.cli", *NER, "--input", "n.jsonl"],
        cwd=run.work,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait() == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(run: Any, shell: str) -> None:
    assert "_MEDVLLM_COMPLETE" in run("completion", shell).stdout


def test_large_inputs_are_warned_of(run: Any, tmp_path: Path) -> None:
    done = run(*NER, "--fast", input="no fever. " * 2100)
    assert "Warning: stdin is 21,000 characters" in done.stderr
    (run.work / "big.txt").write_text("no fever.\n" * 210_000)
    done = run(*NER, "--fast", "--input", "big.txt", "--output", "out.txt")
    assert "Warning: big.txt is 2.1 MB; processing may be slow" in done.stderr


def test_what_comes_from_outside_does_not_steer_the_terminal(run: Any) -> None:
    done = run(*NER, "--input", "\x1b[31mred\nline")
    assert done.returncode == 1
    assert "\x1b" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_bash_completes_commands_options_and_names(run: Any) -> None:
    import sys

    words = {"infer": "inference", "--onto": "--ontology", "--ontology ME": "MESH", "--model bio": "biogpt"}
    for typed, expected in words.items():
        line = f"medvllm {typed}" if typed == "infer" else f"medvllm inference ner {typed}"
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "_MEDVLLM_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split()) - 1),
        }
        code = "from medvllm.cli import cli; cli(prog_name='medvllm', complete_var='_MEDVLLM_COMPLETE')"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert f"plain,{expected}" in done.stdout, (typed, done)
