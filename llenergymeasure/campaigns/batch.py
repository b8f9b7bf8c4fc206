"""A batch: every configuration that a pattern matches, one after the other or several at once."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llenergymeasure.campaigns.children import Job, find_run, new_tag, write_config
from llenergymeasure.config.loading import SUFFIXES
from llenergymeasure.errors import LemError

if TYPE_CHECKING:
    from llenergymeasure.config import Resolved

__all__ = ["BatchMember", "Checked", "checked", "job_of", "matching", "result_of"]


@dataclass(frozen=True, slots=True)
class Checked:
    """A configuration of a batch, resolved, or why it can't be."""

    path: Path
    resolved: Resolved | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class BatchMember:
    """A configuration of a batch and the job that runs it."""

    path: Path
    job: Job
    results_dir: Path


def matching(pattern: str) -> list[Path]:
    """The configuration files of a pattern, in the order of their names; `**` goes into folders.

    Raises:
        LemError: there are none.
    """
    found = sorted(Path(each) for each in glob.glob(str(Path(pattern).expanduser()), recursive=True))
    found = [path for path in found if path.is_file() and path.suffix.lower() in SUFFIXES]
    if not found:
        raise LemError(f"no configuration file matches {pattern!r}; a pattern is such as 'configs/*.yaml', in quotes")
    return found


def checked(paths: Sequence[Path], *, dataset: str | None, sample_size: int | None) -> list[Checked]:
    """Resolves each configuration; one with errors does not keep the others from running."""
    from llenergymeasure.config import resolve

    overrides: dict[str, tuple[object, str]] = {}
    if dataset is not None:
        overrides["dataset.name"] = (dataset, "cli --dataset")
    if sample_size is not None:
        overrides["num_input_prompts"] = (sample_size, "cli --sample-size")
    found = []
    for path in paths:
        try:
            resolved = resolve(path, overrides=overrides)
            errors = [str(each) for each in resolved.findings if each.severity == "error"]
            found.append(Checked(path, resolved, "; ".join(errors) or None))
        except LemError as error:
            found.append(Checked(path, None, str(error)))
    return found


def job_of(
    each: Checked, *, folder: Path, number: int, dataset: str | None, sample_size: int | None, results_dir: Path | None
) -> BatchMember:
    """The job of a configuration; a generated one in `folder` tags its result, so that the summary finds it."""
    assert each.resolved is not None
    tag, config = new_tag(), each.resolved.config
    generated = write_config(
        folder / f"{number:03d}_{each.path.stem}.yaml",
        each.path,
        {"extra_metadata": dict(config.extra_metadata) | {"run": tag}},
    )
    target = results_dir or Path(config.io.results_dir)
    arguments = [str(generated), "--yes", "--fresh", "--results-dir", str(target)]
    if dataset is not None:
        arguments += ["--dataset", dataset]
    if sample_size is not None:
        arguments += ["--sample-size", str(sample_size)]
    return BatchMember(each.path, Job(each.path.stem, tuple(arguments), tag), target)


def result_of(member: BatchMember) -> str | None:
    """The id of the experiment that the job has begun, if it came that far."""
    found = find_run(member.results_dir, member.job.tag or "")
    return found.experiment_id if found else None
