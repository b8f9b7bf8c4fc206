"""Reads sensors at an interval from a thread, and keeps what each has counted."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence

from llenergymeasure.energy.base import Channel, SensorError

__all__ = ["Sampler", "Track"]

THROTTLE_EVERY_S = 1.0
LONGEST_GAP_S = 1.0  # of a polled power, after a reading has failed; the counter forgives any gap
LONGEST_GAP_INTERVALS = 10
SHOWN_OVER_S = 0.5  # several periods of every counter


class Track:
    """The samples of one channel: joules counted since the first one, and watts.

    Attributes:
        times: seconds on time.monotonic().
        joules: counted since times[0], wraps undone; summed up where there is only a power.
        watts: the power at each time; None where it was not read.
        failure: why the track has no energy, or None.
        counter_start_j: the counter's first reading, None without a counter.
        longest_gap_s: between two samples.
    """

    def __init__(self, channel: Channel, interval_s: float) -> None:
        self.channel = channel
        self.times: list[float] = []
        self.joules: list[float] = []
        self.watts: list[float | None] = []
        self.failure: str | None = None
        self.counter_start_j: float | None = None
        self.longest_gap_s = 0.0
        self._counter_j = 0.0
        self._error: str | None = None
        self._gap_limit_s = max(LONGEST_GAP_S, LONGEST_GAP_INTERVALS * interval_s)

    def sample(self, *, edge: bool = False) -> None:
        """Reads the channel once. A reading that fails ends the track at an edge of the window, or where it lasts."""
        if self.failure is not None:
            return
        try:
            self._sample()
        except SensorError as error:
            self._error = str(error)
            if edge:
                self.failure = self._error

    def _sample(self) -> None:
        channel = self.channel
        now = time.monotonic()
        if channel.read_joules is None:
            assert channel.read_watts is not None
            watts = channel.read_watts()
            self._append_power(now, watts)
            return
        counter = channel.read_joules()
        step = self._step(now, counter)
        if self.failure is not None:
            return
        self._counter_j = counter
        self._append(now, step, self._power_beside(channel))

    def _step(self, now: float, counter: float) -> float:
        """Joules since the last sample; sets `failure` where the counter can't say."""
        if not self.times:
            self.counter_start_j = counter
            return 0.0
        step = counter - self._counter_j
        span = self.channel.range_j
        if span is None:
            if step < 0:
                self.failure = (
                    f"the counter went back from {self._counter_j:.3f} J to {counter:.3f} J: the device was reset"
                )
            return step
        gap = now - self.times[-1]
        if gap * self.channel.power_limit_w > span:
            self.failure = (
                f"no reading for {gap:.0f} s: the counter, which wraps at {span:.0f} J, may have wrapped more than once"
            )
        return step if step >= 0 else step + span

    def _power_beside(self, channel: Channel) -> float | None:
        """The power for the trace; without it the energy still stands."""
        if channel.read_watts is None:
            return None
        try:
            return channel.read_watts()
        except SensorError:
            return None

    def _append_power(self, now: float, watts: float) -> None:
        step = 0.0
        if self.times:
            gap = now - self.times[-1]
            before = self.watts[-1]
            assert before is not None
            step = gap * (watts if self.channel.mean_since_last else (before + watts) / 2)
            if self._error is not None and gap > self._gap_limit_s:
                self.failure = f"no power for {gap:.1f} s: {self._error}"
        self._error = None
        self._append(now, step, watts)

    def _append(self, now: float, step: float, watts: float | None) -> None:
        """Joules last: power_w(), called from another thread, looks no further than they go."""
        if self.times:
            self.longest_gap_s = max(self.longest_gap_s, now - self.times[-1])
        self.watts.append(watts)
        self.times.append(now)
        self.joules.append((self.joules[-1] if self.joules else 0.0) + step)

    def joules_at(self, time_s: float) -> float:
        """Joules counted by a time on time.monotonic(), between samples in proportion."""
        place = bisect_left(self.times, time_s)
        if place == 0:
            return self.joules[0]
        if place == len(self.times):
            return self.joules[-1]
        before, after = self.times[place - 1], self.times[place]
        share = (time_s - before) / (after - before)
        return self.joules[place - 1] + share * (self.joules[place] - self.joules[place - 1])

    def power_w(self) -> float | None:
        """The newest power, to be shown: as read, else the counter's slope over the last half second."""
        last = len(self.joules) - 1
        if self.failure is not None or last < 0:
            return None
        if self.watts[last] is not None:
            return self.watts[last]
        first = last
        while first > 0 and self.times[last] - self.times[first] < SHOWN_OVER_S:
            first -= 1
        span = self.times[last] - self.times[first]
        return (self.joules[last] - self.joules[first]) / span if span else None


class Sampler:
    """A thread that reads every channel at an interval between `start` and `stop`, and at both ends.

    Attributes:
        tracks: a track for each channel.
        cpu_s: CPU time the readings took, known after `stop`.
        throttle: the reasons seen; None where they can't be read.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        interval_s: float,
        throttle: Callable[[], frozenset[str]] | None = None,
    ) -> None:
        self.tracks = [Track(channel, interval_s) for channel in channels]
        self.cpu_s = 0.0
        self.throttle: set[str] | None = None if throttle is None else set()
        self._read_throttle = throttle
        self._throttle_at = 0.0
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="lem-energy", daemon=True)

    def start(self) -> None:
        """Takes the first samples, then reads on in the background."""
        began = time.thread_time()
        self._tick(edge=True)
        self.cpu_s += time.thread_time() - began
        if self.tracks:
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread and takes the last samples."""
        self._ended.set()
        if self.tracks:
            self._thread.join()
        began = time.thread_time()
        self._tick(edge=True)
        self.cpu_s += time.thread_time() - began

    def _loop(self) -> None:
        began = time.thread_time()
        due = time.monotonic() + self._interval_s
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            self._tick()
            due = max(due + self._interval_s, time.monotonic())  # ticks that were missed are not made up for
        self.cpu_s += time.thread_time() - began

    def _tick(self, *, edge: bool = False) -> None:
        for track in self.tracks:
            track.sample(edge=edge)
        if self._read_throttle is None or (time.monotonic() < self._throttle_at and not edge):
            return
        self._throttle_at = time.monotonic() + THROTTLE_EVERY_S
        try:
            seen = self._read_throttle()
        except SensorError:
            self.throttle, self._read_throttle = None, None
        else:
            if self.throttle is not None:
                self.throttle |= seen
