"""Two results side by side: like workloads only, paired by cycle where the cycles were run in pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llenergymeasure.config.builder import dotted
from llenergymeasure.errors import LemError
from llenergymeasure.results.aggregate import METRICS, cycle_metric
from llenergymeasure.results.schema import AggregatedResult, CycleResult, Quality, worst_quality
from llenergymeasure.results.store import ResultStore

if TYPE_CHECKING:
    from llenergymeasure.stats import Comparison

__all__ = [
    "ComparedMetric",
    "ResultComparison",
    "Sample",
    "compare",
    "comparison_data",
    "config_differences",
    "find_sample",
    "sample_of",
]

# What makes the work of two runs the same: these are equal, or their figures do not compare.
WORKLOAD = (
    "max_input_tokens",
    "max_output_tokens",
    "min_output_tokens",
    "streaming",
    "traffic_simulation",
    "query_rate",
)
# Of the configuration, what says nothing about a difference in the figures.
_NAMES = ("config_name", "io", "extra_metadata", "schedule", "num_cycles")


@dataclass(frozen=True, slots=True)
class Sample:
    """One side of a comparison: an experiment's cycles, or the runs of one configuration in a campaign."""

    name: str
    results: tuple[AggregatedResult, ...]
    cycles: Mapping[int, CycleResult]
    campaign: tuple[str, str] | None  # name and start, where its cycles were run beside those of others


@dataclass(frozen=True, slots=True)
class ComparedMetric:
    """One quantity on both sides."""

    name: str
    unit: str
    a: float | None  # mean
    b: float | None
    quality: tuple[Quality, Quality] | None  # of an energy
    comparison: Comparison | None  # null where a side has no value


@dataclass(frozen=True, slots=True)
class ResultComparison:
    """b against a."""

    a: str
    b: str
    paired: bool
    metrics: tuple[ComparedMetric, ...]
    differences: dict[str, tuple[Any, Any]]  # dotted key of the configuration → its values
    notes: tuple[str, ...]


def sample_of(name: str, results: Sequence[AggregatedResult]) -> Sample:
    """A sample of one experiment's cycles, or of a campaign's experiments, each one cycle of it."""
    tags = [_campaign_tags(each) for each in results]
    campaign = (str(tags[0]["campaign"]), str(tags[0].get("campaign_started"))) if tags[0] else None
    if len(results) > 1 or (campaign and len(results[0].cycles) == 1):
        cycles = {int(tag["campaign_cycle"]): each.cycles[0] for tag, each in zip(tags, results, strict=True)}
    else:
        cycles = {each.cycle: each for each in results[0].cycles}
    return Sample(name, tuple(results), cycles, campaign)


def _campaign_tags(result: AggregatedResult) -> dict[str, Any]:
    """What a campaign noted in the configuration of its run; nothing of a run of its own."""
    tags: dict[str, Any] = result.config.get("extra_metadata") or {}
    return tags if isinstance(tags.get("campaign"), str) and isinstance(tags.get("campaign_cycle"), int) else {}


def find_sample(store: ResultStore, reference: str) -> Sample:
    """The sample that a reference names: an experiment's id, or CAMPAIGN/CONFIG_NAME.

    Raises:
        LemError: there is none, or it is not aggregated.
    """
    if "/" not in reference:
        return sample_of(reference, [store.load(reference)])
    campaign, config_name = reference.split("/", 1)
    known: set[str] = set()
    found = []
    for each in store.list():
        tags = _campaign_tags(each.aggregated) if each.aggregated else {}
        if not tags:
            continue
        known.add(f"{tags['campaign']}/{tags.get('campaign_config')}")
        if each.aggregated and (tags["campaign"], tags.get("campaign_config")) == (campaign, config_name):
            found.append(each.aggregated)
    if not found:
        raise LemError(
            f"there is no run of {reference} in {store.root}; campaigns have: {', '.join(sorted(known)) or 'none'}"
        )
    tags_of = {each.experiment_id: _campaign_tags(each) for each in found}
    started = max(str(each.get("campaign_started")) for each in tags_of.values())  # of campaigns run again, the last
    cycles = {
        int(tags_of[each.experiment_id]["campaign_cycle"]): each
        for each in found
        if str(tags_of[each.experiment_id].get("campaign_started")) == started
    }
    return sample_of(reference, [cycles[number] for number in sorted(cycles)])


def compare(
    a: Sample,
    b: Sample,
    *,
    paired: bool | None = None,
    allow_unlike_workloads: bool = False,
    allow_unlike_quality: bool = False,
) -> ResultComparison:
    """b against a, quantity by quantity.

    Args:
        a: what is compared with.
        b: what is compared.
        paired: by cycle number; None: paired if both come from one campaign, which ran their cycles side by side.
        allow_unlike_workloads: compare different prompts, token limits or arrival of requests.
        allow_unlike_quality: compare an energy that was measured with one that was estimated, or of other devices.

    Raises:
        LemError: the workloads or the energies are unlike, or there are no cycles in common to pair.
    """
    notes = []
    if unlike := _unlike_workloads(a, b):
        if not allow_unlike_workloads:
            raise LemError(
                f"{a.name} and {b.name} did different work: {'; '.join(unlike)}; "
                "--allow-unlike-workloads compares them all the same"
            )
        notes += [f"unlike workloads: {each}" for each in unlike]
    if unlike := _unlike_energies(a, b):
        if not allow_unlike_quality:
            raise LemError(
                f"the energies of {a.name} and {b.name} were not had alike: {'; '.join(unlike)}; "
                "--allow-unlike-quality compares them all the same"
            )
        notes += [f"unlike energies: {each}" for each in unlike]
    common = sorted(set(a.cycles) & set(b.cycles))
    if paired is None:
        paired = a.campaign is not None and a.campaign == b.campaign and len(common) > 1
    elif paired and len(common) < 2:
        raise LemError(f"{a.name} and {b.name} have {len(common)} cycles in common; pairing needs two")
    numbers = (common, common) if paired else (sorted(a.cycles), sorted(b.cycles))
    sides = [[side.cycles[number] for number in chosen] for side, chosen in zip((a, b), numbers, strict=True)]
    if not paired and min(map(len, sides)) < 2:
        notes.append("a side has one cycle: no interval and no p-value; run with --cycles, or as a campaign")
    notes += _other_notes(a, b)
    return ResultComparison(
        a=a.name,
        b=b.name,
        paired=paired,
        metrics=tuple(_metric(name, *sides, paired=paired) for name in METRICS),
        differences=config_differences(a.results[0].config, b.results[0].config),
        notes=tuple(notes),
    )


def _metric(name: str, a: list[CycleResult], b: list[CycleResult], *, paired: bool) -> ComparedMetric:
    from llenergymeasure.stats import compare_samples

    left, right = cycle_metric(name, a), cycle_metric(name, b)
    comparison = None
    if left.mean is not None and right.mean is not None:
        values, others = ([value for value in side.values if value is not None] for side in (left, right))
        comparison = compare_samples(values, others, paired)
    quality = None
    if left.quality is not None and right.quality is not None:
        quality = (left.quality, right.quality)
    return ComparedMetric(name, left.unit, left.mean, right.mean, quality, comparison)


# Likeness.


def _unlike_workloads(a: Sample, b: Sample) -> list[str]:
    left, right = a.results[0], b.results[0]
    unlike = []
    if left.prompts.sha256 != right.prompts.sha256:
        unlike.append(
            f"prompts {left.prompts.name} ({left.prompts.requests}, sha256 {left.prompts.sha256[:8]}) and "
            f"{right.prompts.name} ({right.prompts.requests}, sha256 {right.prompts.sha256[:8]})"
        )
    for key in WORKLOAD:
        values = left.config.get(key), right.config.get(key)
        if key == "query_rate" and not any(_traffic(each) for each in (left, right)):
            continue
        if key == "traffic_simulation" and not any(_traffic(each) for each in (left, right)):
            continue
        if values[0] != values[1]:
            unlike.append(f"{key} {values[0]} and {values[1]}")
    return unlike


def _traffic(result: AggregatedResult) -> bool:
    return bool((result.config.get("traffic_simulation") or {}).get("enabled"))


def _unlike_energies(a: Sample, b: Sample) -> list[str]:
    """Where a component is known on both sides by other means, or on one side only."""
    unlike = []
    for part in ("gpu", "cpu", "ram", "total"):
        sides = [[getattr(each.energy, part) for each in side.cycles.values()] for side in (a, b)]
        left, right = (worst_quality([each.quality for each in side]) for side in sides)
        if left != right:
            unlike.append(f"{part} {left} and {right}")
        elif left != "unavailable" and part != "total":
            sources = [" & ".join(sorted({str(each.source) for each in side})) for side in sides]
            if sources[0] != sources[1]:
                unlike.append(f"{part} from {sources[0]} and from {sources[1]}")
    return unlike


def _other_notes(a: Sample, b: Sample) -> list[str]:
    notes = []
    left, right = a.results[0], b.results[0]
    machines = [_machine(each.environment) for each in (left, right)]
    notes += [
        f"other {key}: {machines[0][key]} and {machines[1][key]}" for key in machines[0] if _differ(machines, key)
    ]
    tokens = [sum(each.throughput.output_tokens for each in side.cycles.values()) / len(side.cycles) for side in (a, b)]
    if max(tokens) > 1.01 * min(tokens):
        notes.append(f"output tokens differ: {tokens[0]:.0f} and {tokens[1]:.0f} a cycle; compare energies per token")
    for side in (a, b):
        if not all(each.complete for each in side.results):
            notes.append(f"{side.name} is not complete")
    return notes


def _machine(environment: Mapping[str, Any]) -> dict[str, str]:
    """What of the machine bears on the figures."""
    cpu, gpus = environment.get("cpu"), environment.get("gpus")
    return {
        "processor": str(cpu.get("model") if isinstance(cpu, Mapping) else cpu),
        "GPUs": ", ".join(str(each.get("name")) for each in gpus) if isinstance(gpus, list) else str(gpus),
        "driver": str(environment.get("nvidia_driver")),
        "host": str(environment.get("host")),
    }


def _differ(machines: Sequence[Mapping[str, str]], key: str) -> bool:
    return machines[0][key] != machines[1][key]


def config_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys, dotted, whose values differ, but for names and places."""
    left, right = dotted(a), dotted(b)
    return {
        key: (left.get(key), right.get(key))
        for key in sorted(set(left) | set(right))
        if left.get(key) != right.get(key) and key.split(".")[0] not in _NAMES
    }


def comparison_data(found: ResultComparison) -> dict[str, Any]:
    """A comparison as plain data."""
    data = dataclasses.asdict(dataclasses.replace(found, metrics=()))
    data["metrics"] = {}
    for each in found.metrics:
        comparison = None
        if each.comparison is not None:
            interval = each.comparison.interval
            comparison = dataclasses.asdict(dataclasses.replace(each.comparison, interval=None))
            comparison["interval"] = interval.model_dump() if interval else None
        row = {"unit": each.unit, "a": each.a, "b": each.b, "quality": each.quality, "comparison": comparison}
        data["metrics"][each.name] = row
    return data
