"""Lineage: which job and command made an artifact, from which other artifacts and sources; and it drawn as a tree."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nemotron.kit.artifacts.reference import Reference, parse_reference
from nemotron.kit.errors import KitError
from nemotron.kit.secrets import masked

if TYPE_CHECKING:
    from nemotron.kit.artifacts.artifact import Artifact

__all__ = [
    "JOB_VARIABLE",
    "USED_VARIABLE",
    "LineageNode",
    "describe_producer",
    "record_use",
    "render_tree",
    "run_context",
    "trace",
    "used_artifacts",
    "user_name",
]

JOB_VARIABLE = "NEMOTRON_JOB"  # the job's id or folder, set for the process that runs it
USED_VARIABLE = "NEMOTRON_USED_ARTIFACTS"  # JSON list of references that a parent process resolved for this one


@dataclass
class _Run:
    job: str | None = None
    command: str | None = None
    used: dict[str, dict[str, Any]] = field(default_factory=dict)


_current: ContextVar[_Run | None] = ContextVar("nemotron_run", default=None)
_process = _Run()  # of a script that opens no run_context


def _run() -> _Run:
    return _current.get() or _process


@contextlib.contextmanager
def run_context(*, job: str | None = None, command: str | None = None) -> Iterator[None]:
    """What is saved inside is made by this job and command, from what is resolved inside.

    Args:
        job: the job's id or folder; $NEMOTRON_JOB without one.
        command: such as `nano3 pretrain`.
    """
    token = _current.set(_Run(job, command))
    try:
        yield
    finally:
        _current.reset(token)


def record_use(artifact: Artifact) -> None:
    """Notes that the running step reads this artifact; `resolve_artifact` and `read_piped_artifacts` call it."""
    if artifact.reference:
        _run().used[artifact.reference] = {"reference": artifact.reference, "type": artifact.type}


def used_artifacts() -> list[str]:
    """The references that this run has resolved, and those that $NEMOTRON_USED_ARTIFACTS hands on."""
    return [each["reference"] for each in _used([])]


def _used(also: list[Artifact]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for reference in json.loads(os.environ.get(USED_VARIABLE) or "[]"):
        found[reference] = {"reference": reference, "type": None}
    found.update(_run().used)
    for artifact in also:
        if artifact.reference is None:
            raise KitError(f"the artifact {artifact.path} is used before it was saved; save() it first")
        found[artifact.reference] = {"reference": artifact.reference, "type": artifact.type}
    return list(found.values())


def describe_producer(used: list[Artifact]) -> dict[str, Any]:
    """Job, command, arguments (tokens masked), code, machine and used artifacts of what is being saved."""
    run = _run()
    return {
        "job": run.job or os.environ.get(JOB_VARIABLE),
        "command": run.command,
        "argv": masked(list(sys.argv)),
        "code": _git_commit(),
        "user": user_name(),
        "host": os.uname().nodename,
        "python": sys.version.split()[0],
        "used": _used(used),
    }


def user_name() -> str | None:
    """Who runs this process; None where the user id has no name, as in some containers."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


@functools.cache
def _git_commit() -> str | None:
    """The commit of the working folder, with `-dirty` where tracked files differ; None outside git."""
    import subprocess

    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


@dataclass
class LineageNode:
    """An artifact, or a source (`kind` source) that no step made, and what it was made from.

    `missing` is true where the registry does not hold the version any more.
    """

    label: str
    kind: str
    type: str | None = None
    created_at: str | None = None
    job: str | None = None
    command: str | None = None
    code: str | None = None
    missing: bool = False
    inputs: list[LineageNode] = field(default_factory=list)


def trace(reference: Reference, metadata_of: Callable[[Reference], dict[str, Any] | None]) -> LineageNode:
    """The node of `reference` with all before it. A version met twice is one node object."""
    nodes: dict[str, LineageNode] = {}

    def visit(at: Reference) -> LineageNode:
        label = str(at)
        if label in nodes:
            return nodes[label]
        metadata = metadata_of(at)
        node = nodes[label] = LineageNode(label, "artifact", missing=metadata is None)
        if metadata is not None:
            producer = metadata.get("producer") or {}
            node.type, node.created_at = metadata.get("type"), metadata.get("created_at")
            node.job, node.command, node.code = (producer.get(key) for key in ("job", "command", "code"))
            node.inputs = [visit(parse_reference(each["reference"])) for each in producer.get("used") or []]
            for source in metadata.get("metadata", {}).get("source_datasets") or []:
                node.inputs.append(nodes.setdefault(f"source {source}", LineageNode(str(source), "source")))
        return node

    return visit(reference)


def render_tree(node: LineageNode) -> str:
    """The lineage as text, one line a node; what was shown already is named with `(above)`."""
    lines: list[str] = []
    shown: set[int] = set()

    def draw(at: LineageNode, first: str, rest: str) -> None:
        again = id(at) in shown and bool(at.inputs)
        shown.add(id(at))
        lines.append(first + _describe(at) + (" (above)" if again else ""))
        for index, each in enumerate([] if again else at.inputs):
            last = index == len(at.inputs) - 1
            draw(each, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))

    draw(node, "", "")
    return "\n".join(lines)


def _describe(node: LineageNode) -> str:
    if node.kind == "source":
        return f"source {node.label}"
    if node.missing:
        return f"{node.label}  not in the registry"
    by = node.command or node.job
    facts = [node.type, node.created_at[:19] + "Z" if node.created_at else None, f"by {by}" if by else None]
    return "  ".join([node.label, *(each for each in facts if each)])
