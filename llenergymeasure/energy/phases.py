"""The energy of prefill and of decode, by the times at which each ran."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from llenergymeasure.energy.sampler import Track
from llenergymeasure.results.schema import Component, Interval, worst_quality

__all__ = ["Phase", "phase_energy"]

SHORT_SHARE = 0.01  # of a kind's time may lie in phases that the sensor can't resolve


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch in which the model only read prompts, or only wrote tokens; seconds on time.monotonic()."""

    kind: Literal["prefill", "decode"]
    start_s: float
    end_s: float


def phase_energy(
    kind: Literal["prefill", "decode"], phases: Sequence[Phase], tracks: Sequence[Track], *, interval_s: float
) -> Component:
    """Joules of all phases of a kind over all tracks, or why they can't be told apart.

    A sensor shows an edge up to one period late; over a phase the two delays differ by up to a period, so that each
    phase is wrong by about period / √6 times the power, and phases shorter than the period say nothing.
    """
    own = [phase for phase in phases if phase.kind == kind and phase.end_s > phase.start_s]
    reason = _refusal(kind, own, phases, tracks, interval_s)
    if reason is not None:
        return Component(value=None, quality="unavailable", reason=reason)
    joules = variance = 0.0
    duration_s = sum(phase.end_s - phase.start_s for phase in own)
    for track in tracks:
        part = math.fsum(track.joules_at(phase.end_s) - track.joules_at(phase.start_s) for phase in own)
        joules += part
        variance += (part / duration_s * _resolution_s(track, interval_s)) ** 2 * len(own) / 6
    half = 1.96 * math.sqrt(variance)
    quality = worst_quality([track.channel.quality for track in tracks])
    return Component(
        value=joules,
        quality=quality,
        source=", ".join(dict.fromkeys(track.channel.source for track in tracks)),
        scope=", ".join(dict.fromkeys(track.channel.scope for track in tracks)),
        sampling=f"samples every {interval_s:g} s, between them in proportion, over {len(own)} phases",
        uncertainty=Interval(low=max(0.0, joules - half), high=joules + half, method="sensor period")
        if quality == "measured"
        else None,
        reason=_models(tracks),
    )


def _resolution_s(track: Track, interval_s: float) -> float:
    return max(track.channel.period_s, interval_s)


def _models(tracks: Sequence[Track]) -> str | None:
    return "; ".join(track.channel.model for track in tracks if track.channel.model) or None


def _refusal(
    kind: str, own: Sequence[Phase], phases: Sequence[Phase], tracks: Sequence[Track], interval_s: float
) -> str | None:
    if not phases:
        return "the backend gave no times of its phases"
    if not own:
        return f"no {kind} phase was run"
    ordered = sorted(phases, key=lambda phase: phase.start_s)
    if any(after.start_s < before.end_s - 1e-6 for before, after in pairwise(ordered)):
        return "phases overlap: prefill and decode ran at once"
    resolution_s = max(_resolution_s(track, interval_s) for track in tracks)
    lengths = [phase.end_s - phase.start_s for phase in own]
    if sum(length for length in lengths if length < resolution_s) > SHORT_SHARE * sum(lengths):
        return (
            f"{kind} phases last {1000 * statistics.median(lengths):.3g} ms (median), "
            f"less than the {1000 * resolution_s:.3g} ms between readings"
        )
    return None
