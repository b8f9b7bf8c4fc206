"""What a campaign will run and in which order: pure planning, nothing is started here."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llenergymeasure.config.loading import load_file
from llenergymeasure.errors import LemError, LemUsageError
from medvllm_programs.files import shown

__all__ = [
    "STRUCTURES",
    "Campaign",
    "Execution",
    "Member",
    "Step",
    "Structure",
    "is_campaign_file",
    "load_campaign",
    "members_of",
    "plan",
    "plan_hash",
]

Structure = Literal["interleaved", "shuffled", "grouped"]
STRUCTURES: tuple[Structure, ...] = ("interleaved", "shuffled", "grouped")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Execution(_Model):
    """How the runs follow each other."""

    cycles: int = Field(default=3, ge=1, le=20)
    structure: Structure = "interleaved"
    warmup_prompts: int = Field(default=5, ge=0)
    warmup_timeout_seconds: float = Field(default=30.0, gt=0)
    config_gap_seconds: float = Field(default=60.0, ge=0)
    cycle_gap_seconds: float = Field(default=300.0, ge=0)


class CycleSchedule(_Model):
    """When cycles begin, in place of the gap between them."""

    enabled: bool = True
    interval: str | None = None
    at: str | None = None
    days: str | list[str] | None = None
    total_duration: str | None = None


class Campaign(_Model):
    """A campaign file. Paths of configurations are relative to it."""

    campaign_name: str
    dataset: str | None = None
    num_samples: int | None = Field(default=None, ge=1)
    configs: list[str] = Field(min_length=1)
    execution: Execution = Execution()
    schedule: CycleSchedule | None = None
    grid: dict[str, list[Any]] = {}  # dotted key → values; every configuration runs with each combination


@dataclass(frozen=True, slots=True)
class Member:
    """One configuration of a campaign."""

    name: str
    path: Path
    values: Mapping[str, Any]  # dotted key → value, of the grid


@dataclass(frozen=True, slots=True)
class Step:
    """One run: what, in which cycle, and how long to wait before it."""

    number: int  # from 0
    cycle: int  # from 0
    member: Member
    gap_s: float
    new_cycle: bool  # the first of its cycle, where cycles follow each other


def is_campaign_file(path: Path) -> bool:
    """Whether a file describes a campaign, not an experiment."""
    data = load_file(path).data
    return "configs" in data or "campaign_name" in data


def load_campaign(path: Path) -> Campaign:
    """Reads a campaign file.

    Raises:
        LemUsageError: an unknown key or a value that does not fit.
        LemError: it can't be read, or is broken YAML.
    """
    file = load_file(path)
    try:
        return Campaign.model_validate(file.data)
    except ValidationError as error:
        found = error.errors()[0]
        key = tuple(str(each) for each in found["loc"])
        if found["type"] == "extra_forbidden":
            raise LemUsageError(f"{file.where(key)}: unknown key {'.'.join(key)}{_nearest(key)}") from error
        came = "" if found["type"] == "missing" else f", got {found['input']!r}"
        raise LemUsageError(f"{file.where(key)}: {'.'.join(key)}: {found['msg']}{came}") from error


def _nearest(key: tuple[str, ...]) -> str:
    import difflib

    sections: dict[str, type[BaseModel]] = {"execution": Execution, "schedule": CycleSchedule}
    model = sections.get(key[0], Campaign) if len(key) > 1 else Campaign
    near = difflib.get_close_matches(key[-1], model.model_fields, n=1)
    return f"; did you mean {near[0]}?" if near else f"; keys are {', '.join(model.model_fields)}"


def check_name(name: str) -> str:
    """A campaign's name, which names a folder too.

    Raises:
        LemUsageError: it can't.
    """
    if not _NAME.fullmatch(name):
        raise LemUsageError(f"a campaign's name is letters, digits, '.', '_' and '-', got {name!r}")
    return name


def members_of(paths: Sequence[Path], grid: Mapping[str, Sequence[Any]]) -> list[Member]:
    """The configurations of a campaign, each with every combination of the grid, under names that differ.

    Raises:
        LemError: a configuration can't be read, or the same one is there twice.
    """
    members: list[Member] = []
    for path in paths:
        name = str(load_file(path).data.get("config_name") or path.stem)
        for values in itertools.product(*grid.values()):
            chosen = dict(zip(grid, values, strict=True))
            suffix = "".join(f"_{key.rsplit('.', 1)[-1]}={_short(value)}" for key, value in chosen.items())
            members.append(Member(_file_name(name + suffix), path, chosen))
    names = [each.name for each in members]
    for name in names:
        if names.count(name) > 1:
            same = ", ".join(shown(each.path) for each in members if each.name == name)
            raise LemError(f"two configurations of the campaign are called {name} ({same}); config_name must differ")
    return members


def _short(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool | dict | list) or value is None else str(value)


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", text).strip("-.")[:120] or "config"


def plan(members: Sequence[Member], execution: Execution, *, seed: int = 0) -> list[Step]:
    """The runs in their order.

    interleaved: every configuration in each cycle, in the order given; shuffled: in a random order of each cycle, the
    same for the same seed; grouped: all cycles of a configuration, then the next one. Between runs of one cycle lies
    `config_gap_seconds`, between cycles `cycle_gap_seconds`.
    """
    order: list[tuple[int, Member]]
    if execution.structure == "grouped":
        order = [(cycle, member) for member in members for cycle in range(execution.cycles)]
    else:
        draw = random.Random(seed)
        order = []
        for cycle in range(execution.cycles):
            turn = list(members)
            if execution.structure == "shuffled":
                draw.shuffle(turn)
            order += [(cycle, member) for member in turn]
    steps: list[Step] = []
    for number, (cycle, member) in enumerate(order):
        gap = 0.0
        new_cycle = number == 0
        if number:
            before = steps[-1]
            new_cycle = before.cycle != cycle and execution.structure != "grouped"
            changes_config = before.member != member if execution.structure == "grouped" else not new_cycle
            gap = execution.config_gap_seconds if changes_config else execution.cycle_gap_seconds
        steps.append(Step(number, cycle, member, gap, new_cycle))
    return steps


def plan_hash(steps: Sequence[Step], settings: Mapping[str, Any], contents: Mapping[str, str]) -> str:
    """What two starts of one campaign have in common: its runs, its settings and its configurations' hashes."""
    runs = [[step.cycle, step.member.name, step.gap_s] for step in steps]
    text = json.dumps([runs, dict(settings), dict(contents)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
