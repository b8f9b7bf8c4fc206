"""The daemon: first run at once, the next when due, an orderly end."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llenergymeasure.campaigns.schedule import Daemon
from llenergymeasure.campaigns.times import Timetable, parse_at

BEGAN = datetime(2024, 1, 15, 8, 0)


class Clock:
    """A clock that goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.local_offset = timedelta()

    def sleep(self, seconds: float) -> None:
        self.elapsed += seconds

    def daemon(self, timetable: Timetable, total_s: float, run: Callable[[], int], **changes: Any) -> Daemon:
        self.told: list[str] = []
        return Daemon(
            timetable,
            total_s,
            run,
            self.told.append,
            monotonic=lambda: self.elapsed,
            local=lambda: BEGAN + timedelta(seconds=self.elapsed) + self.local_offset,
            sleep=self.sleep,
            **changes,
        )


def test_runs_at_once_and_then_at_the_interval_until_the_end() -> None:
    clock, starts = Clock(), []

    def run() -> int:
        starts.append(round(clock.elapsed))
        clock.sleep(100)
        return len(starts) % 2

    daemon = clock.daemon(Timetable(600.0, None), 1850.0, run)
    assert daemon.serve() is None
    assert starts == [0, 600, 1200, 1800]
    assert daemon.codes == [1, 0, 1, 0]
    assert any(each.startswith("next run at Mon 2024-01-15 08:10:00") for each in clock.told)
    assert "due after the end" in clock.told[-1]


def test_a_run_longer_than_the_interval_skips_what_it_missed() -> None:
    clock, starts = Clock(), []

    def run() -> int:
        starts.append(round(clock.elapsed))
        clock.sleep(700 if len(starts) == 1 else 10)
        return 0

    clock.daemon(Timetable(300.0, None), 1250.0, run).serve()
    assert starts == [0, 900, 1200]


def test_a_time_of_day_follows_the_local_clock_and_an_interval_does_not() -> None:
    for timetable, expected in ((Timetable(None, parse_at("09:00")), 1800), (Timetable(3600.0, None), 3600)):
        clock = Clock()
        starts: list[int] = []

        def run(clock: Clock = clock, starts: list[int] = starts) -> int:
            starts.append(round(clock.elapsed))
            return 0

        daemon = clock.daemon(timetable, 4000.0, run, skip_first=True)
        sleep = daemon.sleep

        def slept(seconds: float, clock: Clock = clock, sleep: Callable[[float], None] = sleep) -> None:
            sleep(seconds)
            if clock.elapsed > 600:
                clock.local_offset = timedelta(minutes=30)  # somebody sets the clock

        daemon.sleep = slept
        daemon.serve()
        assert starts[0] == pytest.approx(expected, abs=25)


def test_a_signal_while_it_waits_ends_it_at_once() -> None:
    clock = Clock()
    daemon = clock.daemon(Timetable(600.0, None), 1e6, lambda: 0)
    daemon.sleep = lambda _: os.kill(os.getpid(), signal.SIGTERM)
    handler = signal.getsignal(signal.SIGTERM)
    assert daemon.serve() == signal.SIGTERM
    assert daemon.codes == [0]
    assert signal.getsignal(signal.SIGTERM) == handler


def test_a_signal_during_a_run_lets_it_finish_and_a_second_ctrl_c_does_not() -> None:
    clock, finished = Clock(), []

    def run(times: int) -> int:
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
        finished.append(True)
        return 0

    daemon = clock.daemon(Timetable(600.0, None), 1e6, lambda: run(1))
    assert daemon.serve() == signal.SIGINT
    assert finished == [True]
    daemon = clock.daemon(Timetable(600.0, None), 1e6, lambda: run(2))
    with pytest.raises(KeyboardInterrupt):
        daemon.serve()
    assert finished == [True]


def test_dry_run_shows_the_times(lem: Callable[..., Any], plain_config: Callable[..., Path]) -> None:
    config = plain_config()
    ran = lem("schedule", config, "--interval", "6h", "--dry-run")
    assert ran.code == 0
    assert len(ran.stdout.splitlines()) == 5  # at once, and four more within 24 h
    ran = lem(
        "schedule", config, "--at", "09:00", "--days", "weekdays", "--duration", "1w", "--dry-run", "--skip-first"
    )
    assert len(ran.stdout.splitlines()) == 5
    assert all(re.match(r"(Mon|Tue|Wed|Thu|Fri) [-0-9]+ 09:00:00$", line) for line in ran.stdout.splitlines())
    ran = lem("schedule", config, "--at", "09:00", "--interval", "12h", "--dry-run")
    assert "--interval wins over --at" in ran.stderr
    assert len(ran.stdout.splitlines()) == 3


def test_the_configuration_may_have_the_schedule(lem: Callable[..., Any], plain_config: Callable[..., Path]) -> None:
    section = {"enabled": True, "interval": "8h", "total_duration": "2d"}
    ran = lem("schedule", plain_config(schedule=section), "--dry-run")
    assert (ran.code, len(ran.stdout.splitlines())) == (0, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say when to run: --interval 6h, or --at 09:00"),
        (["--interval", "6x"], "--interval is a whole number above 0"),
        (["--at", "25:00"], "--at is a time of day"),
        (["--interval", "1h", "--days", "noday"], "--days names mon"),
        (["--interval", "1h", "--duration", "long"], "--duration is a whole number above 0"),
    ],
)
def test_wrong_times_are_wrong_usage(
    lem: Callable[..., Any], plain_config: Callable[..., Path], options: list[str], message: str
) -> None:
    ran = lem("schedule", plain_config(), *options)
    assert ran.code == 2
    assert message in ran.stderr
