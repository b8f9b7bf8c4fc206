"""When runs are due: intervals, times of day, days, changes of the clock."""

from __future__ import annotations

import time as clock
from collections.abc import Iterator
from datetime import datetime, time, timedelta

import pytest

from llenergymeasure.campaigns.times import Timetable, parse_at, parse_days, parse_interval, shown_duration
from llenergymeasure.errors import LemUsageError

MONDAY = datetime(2024, 1, 15, 8, 0)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A local time that has summer time: 2024-03-31 02:00 → 03:00, 2024-10-27 03:00 → 02:00."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    clock.tzset()
    yield
    monkeypatch.undo()
    clock.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("6h", 21600), ("1d", 86400), ("2w", 1209600)]
)
def test_intervals(text: str, seconds: float) -> None:
    assert parse_interval(text) == seconds


@pytest.mark.parametrize("text", ["", "6", "h", "6 h", "1.5h", "-1h", "0m", "6h30m", "6y"])
def test_what_is_no_interval(text: str) -> None:
    with pytest.raises(LemUsageError, match="--interval is a whole number above 0 with s, m, h, d or w"):
        parse_interval(text)


def test_an_interval_stays_within_what_dates_can_count() -> None:
    assert parse_interval("520w") == 520 * 604_800
    with pytest.raises(LemUsageError, match="--interval is at most 520w, got '99999999999w'"):
        parse_interval("99999999999w")


def test_times_of_day() -> None:
    assert parse_at("9:05") == time(9, 5)
    for text in ("24:00", "09:60", "9", "nine", "09:00:00"):
        with pytest.raises(LemUsageError, match="--at is a time of day"):
            parse_at(text)


def test_days() -> None:
    assert parse_days("mon,wed,fri") == {0, 2, 4}
    assert parse_days("Weekdays") == {0, 1, 2, 3, 4}
    assert parse_days("weekends, monday") == {0, 5, 6}
    for text in ("", "m", "mon,,x", "someday"):
        with pytest.raises(LemUsageError, match="--days names mon, tue"):
            parse_days(text)


def test_an_interval_keeps_its_beat_whatever_a_run_takes() -> None:
    table = Timetable(3600.0, None)
    assert table.wait_s(elapsed_s=0.0, now=MONDAY) == 3600.0
    assert table.wait_s(elapsed_s=600.0, now=MONDAY) == 3000.0
    assert table.wait_s(elapsed_s=3 * 3600 + 600.0, now=MONDAY) == 3000.0  # two runs were missed


def test_an_interval_skips_the_days_that_were_not_chosen() -> None:
    table = Timetable(6 * 3600.0, None, parse_days("weekdays"))
    friday = datetime(2024, 1, 19, 20, 0)
    wait = table.wait_s(elapsed_s=0.0, now=friday)
    assert friday + timedelta(seconds=wait) == datetime(2024, 1, 22, 2, 0)


def test_the_next_time_of_day() -> None:
    table = Timetable(None, time(9, 0), parse_days("weekdays"))
    assert table.wait_s(elapsed_s=0.0, now=MONDAY) == 3600.0
    assert table.wait_s(elapsed_s=0.0, now=MONDAY.replace(hour=9)) == 86400.0  # just ran
    assert table.wait_s(elapsed_s=0.0, now=datetime(2024, 1, 19, 9, 1)) == 3 * 86400 - 60  # Friday → Monday
    assert (
        Timetable(None, time(9, 0), frozenset([0])).wait_s(elapsed_s=0.0, now=MONDAY.replace(hour=10)) == 604800 - 3600
    )


@pytest.mark.usefixtures("berlin")
def test_a_time_of_day_is_local_over_a_change_to_summer_time_and_back() -> None:
    table = Timetable(None, time(9, 0))
    assert table.wait_s(elapsed_s=0.0, now=datetime(2024, 3, 30, 9, 0)) == 23 * 3600
    assert table.wait_s(elapsed_s=0.0, now=datetime(2024, 10, 26, 9, 0)) == 25 * 3600
    skipped = Timetable(None, time(2, 30))
    assert skipped.wait_s(elapsed_s=0.0, now=datetime(2024, 3, 31, 1, 0)) == 1.5 * 3600  # 02:30 is 03:30 that day


def test_durations_as_people_say_them() -> None:
    shown = [shown_duration(each) for each in (0.4, 59.6, 90, 7500, 90000)]
    assert shown == ["0 s", "1 min 00 s", "1 min 30 s", "2 h 05 min", "1 d 1 h"]
