"""The end of a campaign: each configuration's figures over its cycles, and each compared with the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llenergymeasure.errors import LemError
from llenergymeasure.results.aggregate import cycle_metric
from llenergymeasure.results.compare import ResultComparison, Sample, compare, comparison_data, sample_of
from llenergymeasure.results.schema import CycleMetric
from llenergymeasure.results.store import ResultStore

if TYPE_CHECKING:
    from llenergymeasure.campaigns.run import CampaignState

__all__ = ["METRICS", "CampaignSummary", "as_data", "summarise"]

METRICS = ("tokens_per_s", "energy_per_output_token_j", "energy_total_j", "request_ms_median", "ttft_ms_median")


@dataclass(frozen=True, slots=True)
class CampaignSummary:
    """What a campaign found."""

    samples: dict[str, Sample]
    metrics: dict[str, dict[str, CycleMetric]]  # configuration → quantity
    comparisons: tuple[ResultComparison, ...]  # of each with the first
    notes: tuple[str, ...]


def summarise(store: ResultStore, state: CampaignState, names: Sequence[str]) -> CampaignSummary:
    """The figures of the runs that are done, by configuration in the order of `names`."""
    samples, notes = {}, []
    for name in names:
        runs = [run for run in state.runs if run.config == name]
        results = []
        for run in runs:
            try:
                if run.status == "done" and run.experiment_id:
                    results.append(store.load(run.experiment_id))
            except LemError as error:
                notes.append(str(error))
        if len(results) < len(runs):
            notes.append(f"{name}: {len(runs) - len(results)} of {len(runs)} runs have no result")
        if results:
            samples[name] = sample_of(name, results)
    metrics = {
        name: {
            metric: cycle_metric(metric, [sample.cycles[each] for each in sorted(sample.cycles)]) for metric in METRICS
        }
        for name, sample in samples.items()
    }
    comparisons = []
    first = next(iter(samples.values()), None)
    for name, sample in samples.items():
        if first is None or sample is first:
            continue
        try:
            comparisons.append(compare(first, sample))
        except LemError as error:
            notes.append(f"{name} is not compared: {error}")
    return CampaignSummary(samples, metrics, tuple(comparisons), tuple(notes))


def as_data(summary: CampaignSummary, state: CampaignState) -> dict[str, Any]:
    """`summary.json`."""
    return {
        "campaign_name": state.campaign_name,
        "started_at": state.started_at,
        "finished_at": state.finished_at,
        "settings": state.settings,
        "experiments": {
            name: [run.experiment_id for run in state.runs if run.config == name and run.status == "done"]
            for name in summary.samples
        },
        "metrics": {
            name: {metric: value.model_dump(mode="json") for metric, value in found.items()}
            for name, found in summary.metrics.items()
        },
        "comparisons": [comparison_data(each) for each in summary.comparisons],
        "notes": list(summary.notes),
    }
