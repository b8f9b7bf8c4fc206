"""Times of a schedule: durations such as 6h, times of day, days of the week, and when the next run is due."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta

from llenergymeasure.errors import LemUsageError

__all__ = ["DAYS", "Timetable", "parse_at", "parse_days", "parse_interval", "shown_duration"]

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
LONGEST_S = 520 * 604_800.0  # ten years: what dates can be counted with
_GROUPS = {"weekdays": DAYS[:5], "weekends": DAYS[5:], "daily": DAYS}


def parse_interval(text: str, *, option: str = "--interval") -> float:
    """Seconds of a number and a unit: s, m, h, d or w.

    Raises:
        LemUsageError: it is neither, or zero, or more than ten years.
    """
    found = re.fullmatch(r"(\d+)([smhdw])", text.strip())
    if not found or int(found[1]) == 0:
        raise LemUsageError(f"{option} is a whole number above 0 with s, m, h, d or w, such as 30m or 6h, got {text!r}")
    seconds = int(found[1]) * _UNITS[found[2]]
    if seconds > LONGEST_S:
        raise LemUsageError(f"{option} is at most 520w, got {text!r}")
    return float(seconds)


def parse_at(text: str) -> time:
    """A time of day, HH:MM.

    Raises:
        LemUsageError: it is none.
    """
    found = re.fullmatch(r"(\d{1,2}):(\d{2})", text.strip())
    if not found or int(found[1]) > 23 or int(found[2]) > 59:
        raise LemUsageError(f"--at is a time of day from 00:00 to 23:59, such as 09:00, got {text!r}")
    return time(int(found[1]), int(found[2]))


def parse_days(text: str) -> frozenset[int]:
    """Days of the week, Monday 0: 'mon,wed,fri', 'weekdays', 'weekends'.

    Raises:
        LemUsageError: a name is no day.
    """
    days: set[int] = set()
    for part in re.split(r"[,\s]+", text.strip().lower()):
        names = _GROUPS.get(part)
        if names is None:
            full = [day for day in DAYS if part and (part == day or _full_name(day) == part)]
            if not full:
                raise LemUsageError(f"--days names {', '.join(DAYS)}, weekdays or weekends, got {part!r}")
            names = tuple(full)
        days |= {DAYS.index(name) for name in names}
    return frozenset(days)


def _full_name(day: str) -> str:
    return next(
        name
        for name in ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
        if name.startswith(day)
    )


@dataclass(frozen=True, slots=True)
class Timetable:
    """When runs are due. An interval is counted on the monotonic clock, `at` on the local one."""

    interval_s: float | None
    at: time | None
    days: frozenset[int] = frozenset(range(7))

    def wait_s(self, *, elapsed_s: float, now: datetime) -> float:
        """Seconds until the next run.

        An interval's runs are due at its multiples since the start, on the chosen days: a run that took longer skips
        those it missed, so a change of the clock, or a long run, moves no later one. At a time of day that a clock
        change skips, the run comes as much later; at one that it repeats, it comes once, the first time.

        Args:
            elapsed_s: monotonic time since the first run was started.
            now: local time, naive.
        """
        if self.interval_s is not None:
            periods = int(elapsed_s // self.interval_s) + 1
            for skipped in range(periods, periods + int(8 * 86_400 // self.interval_s) + 2):
                wait = skipped * self.interval_s - elapsed_s
                if (now + timedelta(seconds=wait)).weekday() in self.days:
                    return wait
            # An interval of weeks comes back to one day of the week.
            return periods * self.interval_s - elapsed_s
        assert self.at is not None  # of the two, one is given
        for ahead in range(9):
            due = datetime.combine(now.date() + timedelta(days=ahead), self.at)
            if due > now and due.weekday() in self.days:
                return due.timestamp() - now.timestamp()
        raise AssertionError("a week has every day")


def shown_duration(seconds: float) -> str:
    """'2 h 05 min', '4 min 30 s', '12 s'."""
    whole = round(seconds)
    if whole >= 86_400:
        return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
