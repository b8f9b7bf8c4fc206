"""The examples of docs/CLI.md about `inference generate` run as they stand, on a tiny model of that name."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[3] / "docs" / "CLI.md"
PROGRAM = "python -m medvllm.cli inference generate "


def examples() -> list[str]:
    """Each command of the page's sh blocks, in one line."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith(PROGRAM)]


def test_every_example_runs(generate: Any) -> None:
    from medvllm.registry import ModelRegistry

    ModelRegistry(generate.home).register("smollm2-135m-instruct", str(generate.model), tasks=["generation"])
    Path("prompts.jsonl").write_text('{"id": "a", "text": "Explain HTN."}\n')
    commands = examples()
    assert len(commands) >= 9
    for command in commands:
        printed = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {command.removeprefix(PROGRAM)}"],
            capture_output=True,
            text=True,
            check=True,
        )
        arguments = printed.stdout.split("\0")[:-1]
        done = generate(*arguments, text=None)
        assert done.code == 0, (command, done.stderr)
        if "--json-meta" in arguments:
            assert {"strategy", "temperature", "constraints_report"} <= done.meta.keys(), command
        warned = [line for line in done.stderr.splitlines() if line.startswith("Warning")]
        assert bool(warned) == ("--no-" in command), (command, done.stderr)
    assert json.loads(Path("out.txt.meta.json").read_text())["strategy"] == "greedy"
    assert json.loads(Path("texts.jsonl").read_text())["id"] == "a"
    assert list(Path("profiles").iterdir())


def test_every_option_of_the_command_is_on_the_page() -> None:
    from medvllm.cli.inference_commands import cmd_generate

    page = PAGE.read_text()
    options = {name for parameter in cmd_generate.params for name in parameter.opts if name.startswith("--")}
    assert {name for name in options if name not in page} == set()
