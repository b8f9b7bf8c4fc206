"""Remarks on a configuration as a command shows them, whether it may go on, and whether it could run here."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from llenergymeasure.errors import LemError
from medvllm_programs.commands import note, warn

if TYPE_CHECKING:
    from llenergymeasure.config import Finding

__all__ = ["accept_findings", "show_findings", "warn_of_missing"]

_KINDS = {"error": "Error", "warning": "Warning", "info": "Note"}


def show_findings(findings: Sequence[Finding]) -> None:
    """One line for each on stderr."""
    for finding in findings:
        note(str(finding), kind=_KINDS[finding.severity])


def accept_findings(findings: Sequence[Finding], *, yes: bool, force: bool) -> None:
    """Shows the remarks; goes on over errors with --force only, and over warnings with --yes or when asked.

    Raises:
        LemError: it may not go on.
    """
    show_findings(findings)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors and not force:
        raise LemError(f"the configuration has {len(errors)} error(s); mend them, or run all the same with --force")
    if yes or not any(finding.severity == "warning" for finding in findings):
        return
    if not sys.stdin.isatty():
        raise LemError("the configuration has warnings; run all the same with --yes")
    click.confirm("Run all the same?", abort=True, err=True)


def warn_of_missing(backends: Iterable[str]) -> None:
    """One warning for each backend whose library is not installed. A check or a preview is none the worse for it: the
    run may be meant for another machine."""
    from llenergymeasure.backends import missing

    for backend in sorted(set(backends)):
        if lacks := missing(backend):
            warn(f"backend {backend}: {lacks}")
