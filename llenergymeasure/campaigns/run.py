"""Runs a campaign: its state is on disk before and after each run, so that a killed one goes on where it was.

campaigns/<name>/state.json        the plan and how far it is
campaigns/<name>/configs/*.yaml    what each run was started with
campaigns/<name>/summary.json      the figures and comparisons at the end
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from llenergymeasure.campaigns.children import Child, Job, find_run, new_tag, run_jobs, write_config
from llenergymeasure.campaigns.plan import Execution, Step
from llenergymeasure.campaigns.times import Timetable, shown_duration
from llenergymeasure.errors import LemError
from llenergymeasure.files import make_folder, write_atomically
from llenergymeasure.orchestration.state import now, process_started

__all__ = ["CampaignRun", "CampaignState", "RunState", "member_values"]

Status = Literal["pending", "running", "done", "failed"]


class RunState(BaseModel):
    """One run of the plan."""

    model_config = ConfigDict(extra="forbid")

    number: int
    cycle: int
    config: str
    status: Status = "pending"
    tag: str | None = None
    experiment_id: str | None = None
    pid: int | None = None
    pid_started: float | None = None  # Unix time: tells the process from a later one of that pid
    started_at: str | None = None
    finished_at: str | None = None
    exit_code: int | None = None


class CampaignState(BaseModel):
    """`campaigns/<name>/state.json`."""

    model_config = ConfigDict(extra="forbid")

    campaign_name: str
    started_at: str
    finished_at: str | None = None
    plan_hash: str
    settings: dict[str, Any]
    runs: list[RunState]

    @property
    def unfinished(self) -> list[RunState]:
        """Runs that are yet to give a result."""
        return [run for run in self.runs if run.status != "done"]


def member_values(values: Mapping[str, Any], execution: Execution, *, warmup_max: int) -> dict[str, Any]:
    """What a campaign changes in a configuration: one cycle a run, the warm-up, and the grid's values."""
    warmup: dict[str, Any] = {
        "warmup.min": execution.warmup_prompts,
        "warmup.max": max(warmup_max, execution.warmup_prompts) if execution.warmup_prompts else 0,
        "warmup.timeout": execution.warmup_timeout_seconds,
    }
    return {"num_cycles": 1, **warmup, **values}


@dataclass(slots=True)
class CampaignRun:
    """A campaign that is to run, or to go on.

    Attributes:
        name: the campaign's.
        steps: the plan.
        plan_hash: what tells it from another plan of the same name.
        settings: for the record.
        results_dir: the results folder.
        values: configuration's name → what the campaign changes in it.
        metadata: configuration's name → its own extra_metadata.
        options: of every `lem experiment`.
        timetable: when cycles begin; None: after their gap.
        total_s: no cycle begins later than this after the start; only with a timetable.
        tell: shows a line of progress.
        durations_s: configuration's name → how long its runs took before.
    """

    name: str
    steps: Sequence[Step]
    plan_hash: str
    settings: Mapping[str, Any]
    results_dir: Path
    values: Mapping[str, Mapping[str, Any]]
    metadata: Mapping[str, Mapping[str, Any]]
    options: Sequence[str]
    tell: Callable[[str], None]
    timetable: Timetable | None = None
    total_s: float | None = None

    @property
    def folder(self) -> Path:
        """`campaigns/<name>`."""
        return self.results_dir / "campaigns" / self.name

    @property
    def state_path(self) -> Path:
        """`campaigns/<name>/state.json`."""
        return self.folder / "state.json"

    def read_state(self) -> CampaignState | None:
        """The state on disk; None where there is none.

        Raises:
            LemError: it is damaged.
        """
        if not self.state_path.is_file():
            return None
        try:
            return CampaignState.model_validate_json(self.state_path.read_bytes())
        except (OSError, ValidationError) as error:
            raise LemError(f"{self.state_path} is damaged; --fresh starts the campaign anew") from error

    def prepare(self, *, fresh: bool) -> CampaignState:
        """The state to go on from: that on disk if it is of this plan and runs are left or failed, else a new one.

        Raises:
            LemError: an unfinished campaign of this name has another plan.
        """
        make_folder(self.folder / "configs")
        try:
            state = self.read_state()
        except LemError:
            if not fresh:
                raise
            state = None
        if state is not None and state.unfinished and not fresh:
            if state.plan_hash == self.plan_hash:
                done = len(state.runs) - len(state.unfinished)
                self.tell(
                    f"going on with {self.name}, begun {state.started_at}: {done} of {len(state.runs)} runs are done"
                )
                state.finished_at = None
                return state
            if state.finished_at is None:
                raise LemError(
                    f"the campaign {self.name} is unfinished in {self.folder} and had other configurations or "
                    "settings; start it as it was, or give --fresh or another --campaign-name"
                )
        if state is not None:
            stamp = state.started_at.replace(":", "").replace("+0000", "Z")
            write_atomically(self.folder / f"state_{stamp}.json", self.state_path.read_bytes())
        runs = [RunState(number=step.number, cycle=step.cycle, config=step.member.name) for step in self.steps]
        state = CampaignState(
            campaign_name=self.name,
            started_at=now(),
            plan_hash=self.plan_hash,
            settings=dict(self.settings),
            runs=runs,
        )
        self._write(state)
        return state

    def run(self, state: CampaignState) -> CampaignState:
        """Runs what is left; a failed run does not keep the others from running.

        Raises:
            KeyboardInterrupt: the running experiment was interrupted too; the state says so.
        """
        began_s = time.monotonic()
        last_end: float | None = None
        for step in self.steps:
            run = state.runs[step.number]
            if run.status == "done":
                continue
            if run.status == "running" and self._settle(state, run):
                last_end = time.monotonic()
                continue
            if self.timetable is not None and step.new_cycle and step.number:
                if not self._wait_for_timetable(began_s, step):
                    break
            elif last_end is not None:
                self._wait_for_gap(step, last_end)
            self._run(state, step, run)
            last_end = time.monotonic()
        state.finished_at = now()
        self._write(state)
        return state

    # Waiting.

    def _wait_for_gap(self, step: Step, last_end_s: float) -> None:
        wait = step.gap_s - (time.monotonic() - last_end_s)
        if wait > 0:
            self.tell(f"waiting {shown_duration(wait)} before {step.member.name}, cycle {step.cycle + 1}")
            time.sleep(wait)

    def _wait_for_timetable(self, began_s: float, step: Step) -> bool:
        assert self.timetable is not None
        elapsed = time.monotonic() - began_s
        wait = self.timetable.wait_s(elapsed_s=elapsed, now=datetime.now())
        if self.total_s is not None and elapsed + wait > self.total_s:
            self.tell(f"the schedule ends before cycle {step.cycle + 1} is due; its runs are left out")
            return False
        self.tell(f"cycle {step.cycle + 1} begins in {shown_duration(wait)}")
        time.sleep(wait)
        return True

    # Running.

    def _run(self, state: CampaignState, step: Step, run: RunState, *, resume: str | None = None) -> None:
        tag = run.tag if resume and run.tag else new_tag()
        if resume is None:
            config = self._generated(state, step, tag)
            arguments = (str(config), "--yes", "--fresh", "--results-dir", str(self.results_dir), *self.options)
        else:
            arguments = ("--resume", resume, "--yes", "--results-dir", str(self.results_dir))
        label = f"[{step.number + 1}/{len(self.steps)}] cycle {step.cycle + 1}, {step.member.name}"

        def started(_job: Job, _number: int) -> None:
            self.tell(label + (f", going on with {resume}" if resume else "") + self._left(state))
            run.status, run.tag, run.experiment_id, run.exit_code = "running", tag, resume, None
            run.started_at, run.finished_at, run.pid, run.pid_started = now(), None, None, None
            self._write(state)

        def running(child: Child) -> None:
            run.pid, run.pid_started = child.process.pid, process_started(child.process.pid)
            self._write(state)

        job = Job(step.member.name, arguments, tag)
        child = run_jobs([job], parallel=1, on_start=started, on_running=running, on_end=lambda _: None)[0]
        self._finish(state, run, exit_code=child.exit_code)
        if run.status == "failed":
            self.tell(f"{label} failed with exit code {child.exit_code}; the campaign goes on")
        elif run.experiment_id:
            self.tell(f"{label}: {run.experiment_id}, {shown_duration(child.duration_s)}")

    def _finish(self, state: CampaignState, run: RunState, *, exit_code: int) -> None:
        found = find_run(self.results_dir, run.tag or "")
        run.experiment_id = found.experiment_id if found else None
        run.exit_code = exit_code
        run.finished_at = now()
        run.status = "done" if exit_code == 0 and found else "failed"
        run.pid = run.pid_started = None
        self._write(state)

    def _generated(self, state: CampaignState, step: Step, tag: str) -> Path:
        name = step.member.name
        metadata = dict(self.metadata[name]) | {
            "run": tag,
            "campaign": self.name,
            "campaign_started": state.started_at,
            "campaign_config": name,
            "campaign_cycle": step.cycle,
        }
        values = {**self.values[name], "config_name": name, "extra_metadata": metadata}
        return write_config(self.folder / "configs" / f"{step.number:03d}_{name}.yaml", step.member.path, values)

    def _settle(self, state: CampaignState, run: RunState) -> bool:
        """A run that was going when the campaign was killed: waits for it if it still goes, and says if it is done."""
        if _alive(run.pid, run.pid_started):
            self.tell(f"{run.config}, cycle {run.cycle + 1}, still runs as process {run.pid}; waiting for it")
            while _alive(run.pid, run.pid_started):
                time.sleep(0.5)
        found = find_run(self.results_dir, run.tag or "")
        if found is not None and found.status in ("completed", "aggregated"):
            if found.status == "completed":
                from llenergymeasure.results.store import ResultStore

                ResultStore(self.results_dir).aggregate(found.experiment_id, force=True)
            self._finish(state, run, exit_code=0)
            return True
        if found is not None:
            self._run(state, self.steps[run.number], run, resume=found.experiment_id)
            return True
        return False

    def _left(self, state: CampaignState) -> str:
        """' (about 12 min left)', from the runs so far and the gaps to come; '' before the first has ended."""
        took: dict[str, list[float]] = {}
        for run in state.runs:
            if run.status == "done" and run.started_at and run.finished_at:
                begin, end = (datetime.fromisoformat(each) for each in (run.started_at, run.finished_at))
                took.setdefault(run.config, []).append((end - begin).total_seconds())
        if not took or self.timetable is not None:
            return ""
        means = {name: sum(each) / len(each) for name, each in took.items()}
        other = sum(means.values()) / len(means)
        left = [step for step in self.steps if state.runs[step.number].status == "pending"]
        seconds = sum(means.get(step.member.name, other) for step in left) + sum(step.gap_s for step in left[1:])
        return f" (about {shown_duration(seconds)} left)"

    def _write(self, state: CampaignState) -> None:
        write_atomically(self.state_path, state.model_dump_json(indent=1).encode() + b"\n")


def _alive(pid: int | None, started: float | None) -> bool:
    if pid is None or started is None:
        return False
    found = process_started(pid)
    return found is not None and abs(found - started) < 1.0
