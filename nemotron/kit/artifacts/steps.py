"""What a step says when it is done, and what the next one reads from a pipe."""

from __future__ import annotations

import json
import os
import select
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from nemotron.kit.artifacts.artifact import Artifact
from nemotron.kit.artifacts.lineage import record_use
from nemotron.kit.artifacts.reference import parse_reference

__all__ = ["match_piped", "print_step_complete", "read_piped_artifacts"]

_HINT_AFTER_S = 3.0


def print_step_complete(**artifacts: Artifact) -> None:
    """Shows what a step made on stderr; where stdout is no terminal, also prints it there for the next command.

    One line of JSON: `{"data": {"path": "/…", "type": "PretrainBlendsArtifact"}}`. Under torchrun only rank 0 speaks.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    rows: list[tuple[str, str]] = []
    for key, artifact in artifacts.items():
        rows.append((key, artifact.reference or artifact.type))
        rows.append(("", str(artifact.path)))
        rows.extend(("", f"{name} {_shown(value)}") for name, value in artifact.metrics.items())
    print(_panel("Step complete", rows), file=sys.stderr)
    if not sys.stdout.isatty():
        piped = {key: {"path": str(each.path.absolute()), "type": each.type} for key, each in artifacts.items()}
        print(json.dumps(piped, ensure_ascii=False), flush=True)


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _panel(title: str, rows: list[tuple[str, str]]) -> str:
    left = max((len(key) for key, _ in rows), default=0)
    lines = [f"{key.ljust(left)}  {text}" for key, text in rows]
    width = max(len(title) + 2, *(len(line) for line in lines)) if lines else len(title) + 2
    top = f"╭─ {title} {'─' * (width - len(title) - 1)}╮"
    return "\n".join([top, *(f"│ {line.ljust(width)} │" for line in lines), f"╰{'─' * (width + 2)}╯"])


def read_piped_artifacts(stdin: TextIO | None = None) -> dict[str, Artifact]:
    """The artifacts that the command before this one in a pipe printed; none where stdin is no pipe and no file.

    Waits until the pipe is closed. Lines that are no artifacts are passed on to stderr. What is read is noted as used.

    Raises:
        KitError: a line names a folder without an artifact.
    """
    stdin = stdin or sys.stdin
    if stdin is None or not _has_input(stdin):
        return {}
    found: dict[str, Artifact] = {}
    for line in stdin:
        piped = _parse(line)
        if piped is None:
            if line.strip():
                print(line.rstrip("\n"), file=sys.stderr)
            continue
        for key, each in piped.items():
            found[key] = Artifact.load(Path(each["path"]))
            record_use(found[key])
    return found


def match_piped(piped: Mapping[str, Artifact], inputs: Mapping[str, str]) -> dict[str, Artifact]:
    """Which piped artifact goes to which input: the one of the same key, else the one of the input's default name.

    Args:
        piped: from `read_piped_artifacts`.
        inputs: the command's inputs: key → default reference.
    """
    chosen = {}
    for key, default in inputs.items():
        name = parse_reference(default).name if default else None
        for artifact in [piped[key]] if key in piped else piped.values():
            if key in piped or artifact.name == name:
                chosen[key] = artifact
    return chosen


def _has_input(stdin: TextIO) -> bool:
    try:
        descriptor = stdin.fileno()
    except (OSError, ValueError):  # an in-memory file, as tests and notebooks put there
        return not stdin.isatty()
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        return False
    if stat.S_ISFIFO(mode) and not select.select([descriptor], [], [], _HINT_AFTER_S)[0]:
        print("waiting for artifacts on standard input; close it (</dev/null) where none will come", file=sys.stderr)
    return True


def _parse(line: str) -> dict[str, dict[str, Any]] | None:
    if not line.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    fits = isinstance(value, dict) and all(isinstance(each, dict) and "path" in each for each in value.values())
    return value if fits else None
