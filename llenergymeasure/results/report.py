"""`lem report`: one HTML page about experiments that needs no network and runs no script.

Everything that comes from results is escaped. What was not measured is said, not drawn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from llenergymeasure.config.builder import dotted
from llenergymeasure.errors import LemError
from llenergymeasure.results import manifest
from llenergymeasure.results.charts import SERIES, Bars, Series, bars, lines, scatter
from llenergymeasure.results.compare import config_differences
from llenergymeasure.results.figures import number
from llenergymeasure.results.schema import AggregatedResult, Component, Interval, Latency, MultiCycleResult
from llenergymeasure.results.store import ResultStore, StoredRaw

__all__ = ["render"]

MOST_POINTS = 1500  # of a curve: more do not show

STYLE = """
:root{--ink:#1b1f24;--dim:#5b6470;--line:#d8dce1;--page:#fff;--panel:#f6f7f9;
--c0:#2563a8;--c1:#c2571a;--c2:#2f7d4f;--c3:#8a4fa3;--c4:#a8872a;--c5:#b03a5b}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--dim:#9aa4b0;--line:#3a414a;--page:#14171b;--panel:#1d2126;
--c0:#6aa9ec;--c1:#f09a5f;--c2:#6cc491;--c3:#c592dd;--c4:#d9bd62;--c5:#ec7f9c}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:1.5rem;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;margin:0 0 .25rem}h2{font-size:1.15rem;margin:2.2rem 0 .5rem}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
p{margin:.3rem 0}.dim{color:var(--dim)}
table{border-collapse:collapse;width:100%;font-size:14px;display:block;overflow-x:auto}
th,td{text-align:left;padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td{overflow-wrap:break-word}th,td:first-child{white-space:nowrap}
svg{width:100%;height:auto;font:12px system-ui,sans-serif}
svg text{fill:var(--dim)}.mid{text-anchor:middle}.end{text-anchor:end}
.axis{fill:none;stroke:var(--dim)}.grid{stroke:var(--line);stroke-width:.6}
.line{fill:none;stroke-width:1.7}
.key{display:inline-block;width:.8em;height:.8em;margin:0 .35em 0 1em;border-radius:2px}
.none{background:var(--panel);padding:.7rem 1rem;border-radius:6px}
.warn{border-left:3px solid var(--c1);padding-left:.7rem}
details{margin:.5rem 0}summary{cursor:pointer}
"""
STYLE += "".join(
    f".line.s{n}{{stroke:var(--c{n})}}.dot.s{n},.bar.s{n}{{fill:var(--c{n})}}.key.s{n}{{background:var(--c{n})}}"
    for n in range(SERIES)
)


@dataclass(frozen=True, slots=True)
class _Experiment:
    """What the page has of one experiment."""

    name: str  # its configuration's, with the id where several have the same
    result: AggregatedResult
    cycles: MultiCycleResult | None
    raws: Sequence[StoredRaw]
    head: str
    intact: bool


def render(store: ResultStore, experiment_ids: Sequence[str]) -> str:
    """The page.

    Raises:
        LemError: an experiment is not there or not aggregated.
    """
    results = [store.load(each) for each in dict.fromkeys(experiment_ids)]
    names = [each.config_name for each in results]
    found = [
        _Experiment(
            name=each.config_name if names.count(each.config_name) == 1 else f"{each.config_name} {each.experiment_id}",
            result=each,
            cycles=store.load_multi_cycle(each.experiment_id),
            raws=store.raws(each.experiment_id),
            head=_head(store, each.experiment_id),
            intact=not store.verify(each.experiment_id),
        )
        for each in results
    ]
    title = f"lem: {', '.join(dict.fromkeys(names))}"
    body = [
        f"<h1>{escape(title)}</h1>",
        _overview(found),
        _section("Energy against throughput", _energy_throughput(found)),
        _section("Power", _power(found)),
        _section("Latency", _latency(found)),
        _section("Prefill and decode", _phases(found)),
        _section("Energy by component", _components(found)),
        _section("Over cycles", _over_cycles(found)) if any(each.cycles for each in found) else "",
        _section("Where the figures come from", _provenance(found)),
    ]
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _head(store: ResultStore, experiment_id: str) -> str:
    try:
        return manifest.head(store.raw_folder(experiment_id))
    except LemError:
        return "not readable"


# Pieces.


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _none(text: str) -> str:
    return f'<p class="none">{escape(text)}</p>'


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: str = "") -> str:
    """Cells are escaped here; `numbers` names the columns set to the right."""

    def cell(tag: str, place: int, text: str) -> str:
        kind = ' class="n"' if str(place) in numbers else ""
        return f"<{tag}{kind}>{escape(text)}</{tag}>"

    head = "".join(cell("th", place, text) for place, text in enumerate(headings))
    body = "".join(f"<tr>{''.join(cell('td', place, text) for place, text in enumerate(row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _legend(names: Sequence[str]) -> str:
    keys = (f'<span class="key s{place % SERIES}"></span>{escape(name)}' for place, name in enumerate(names))
    return f'<p class="dim">{"".join(keys)}</p>'


def _with(value: float | None, interval: Interval | None, unit: str = "") -> str:
    if value is None or interval is None:
        return number(value, unit)
    return f"{number(value)} ({number(interval.low)} to {number(interval.high)}) {unit}".rstrip()


def _energy(component: Component) -> str:
    if component.value is None:
        return f"unavailable: {component.reason or 'no reason given'}"
    return f"{_with(component.value, component.uncertainty, component.unit)}, {component.quality}"


def _reasons(
    found: Sequence[_Experiment], component_of: Callable[[_Experiment], Component], *, of: int | None = None
) -> str:
    """'energy unavailable: reason' of those that have none, by name where they are not all `of` the page."""
    reasons: dict[str, list[str]] = {}
    for each in found:
        component = component_of(each)
        if component.value is None:
            reasons.setdefault(component.reason or "no reason given", []).append(each.name)
    every = sum(map(len, reasons.values())) == (of or len(found)) and len(reasons) == 1
    return "".join(
        _none(f"{'' if every else ', '.join(names) + ': '}energy unavailable: {reason}")
        for reason, names in reasons.items()
    )


# Sections.


def _overview(found: Sequence[_Experiment]) -> str:
    rows = []
    for each in found:
        result = each.result
        metrics = each.cycles.metrics if each.cycles else {}
        rate = metrics.get("tokens_per_s")
        rows.append(
            [
                each.name,
                f"{result.model_name}, {result.backend}",
                f"{result.throughput.requests} of {result.prompts.name}",
                _with(rate.mean, rate.interval) if rate else number(result.throughput.tokens_per_s),
                _energy(result.energy.total),
                number(result.energy_per_output_token_j),
            ]
        )
    headings = ["", "model, backend", "requests", "output tokens/s", "energy, all cycles", "J per output token"]
    times = f"{min(each.result.started_at for each in found)} to {max(each.result.finished_at for each in found)}"
    page = f'<p class="dim">{escape(times)}</p>' + _table(headings, rows, numbers="35")
    warnings = dict.fromkeys(f"{each.name}: {text}" for each in found for text in each.result.warnings)
    return page + "".join(f'<p class="warn">{escape(text)}</p>' for text in warnings)


def _energy_throughput(found: Sequence[_Experiment]) -> str:
    series = []
    for each in found:
        points = [
            (cycle.throughput.tokens_per_s, cycle.energy_per_output_token_j)
            for cycle in each.result.cycles
            if cycle.throughput.tokens_per_s is not None and cycle.energy_per_output_token_j is not None
        ]
        series.append(Series(each.name, [(x, y) for x, y in points if x is not None and y is not None]))
    text = _reasons(found, lambda each: each.result.energy.total)
    if not any(each.points for each in series):
        return text or _none("no cycle has both an energy and a throughput")
    chart = scatter(series, x="output tokens/s", y="J per output token", label="Energy per token against throughput")
    return chart + _legend([each.name for each in series]) + '<p class="dim">One point a cycle.</p>' + text


def _power(found: Sequence[_Experiment]) -> str:
    series: list[Series] = []
    without: list[str] = []
    unavailable: list[_Experiment] = []
    for color, each in enumerate(found):
        traces = map(_trace, each.raws)
        drawn = [Series(each.name, points, color) for points in traces if points]
        series += drawn
        if not drawn and each.result.energy.total.value is None:
            unavailable.append(each)
        elif not drawn:
            without.append(f"{each.name}: no power trace was kept; set timeseries.enabled and timeseries.save")
    text = _reasons(unavailable, lambda each: each.result.energy.total, of=len(found)) + "".join(map(_none, without))
    if not series:
        return text
    chart = lines(series, x="time of measurement, s", y="power, W", label="Power over time")
    several = '<p class="dim">One line for each process and cycle.</p>' if len(series) > len(found) else ""
    return chart + _legend([each.name for each in found]) + several + text


def _trace(stored: StoredRaw) -> list[tuple[float, float]]:
    """A power trace's points (s, W), segments one after the other, thinned to what shows; none without a trace."""
    name = stored.result.power_trace
    points: list[tuple[float, float]] = []
    if name is None:
        return points
    try:
        text = stored.path.with_name(Path(name).name).read_text()
        offset, last, segment = 0.0, 0.0, None
        for line in text.splitlines():
            row: dict[str, Any] = json.loads(line)
            if segment is not None and row["segment"] != segment:
                offset += last
            segment, last = row["segment"], float(row["t_s"])
            points.append((offset + last, float(row["watts"])))
    except (OSError, ValueError, KeyError, TypeError):  # removed or damaged: `verify` says so on the page
        return []
    return points[:: len(points) // MOST_POINTS + 1]


def _latency(found: Sequence[_Experiment]) -> str:
    kinds: list[tuple[str, str, Callable[[_Experiment], list[float]]]] = [
        ("Time to first token", "ttft_ms", lambda e: [r.ttft_ms for r in _requests(e) if r.ttft_ms is not None]),
        ("Between tokens", "itl_ms", lambda e: [v for r in _requests(e) for v in (r.itl_ms or [])[1:-1]]),
        ("Whole request", "request_ms", lambda e: [(r.finished_s - r.started_s) * 1000 for r in _requests(e)]),
    ]
    parts = []
    for title, field, samples_of in kinds:
        series = [Series(each.name, _cumulative(samples_of(each))) for each in found]
        if not any(each.points for each in series):
            continue
        rows = []
        for each in found:
            value: Latency | None = getattr(each.result.latencies, field)
            if value is not None:
                figures = (value.mean, value.median, value.p95, value.p99, value.min, value.max)
                rows.append([each.name, str(value.samples), *map(number, figures)])
        chart = lines(series, x="ms", y="share of samples", step=True, label=f"{title}, cumulative distribution")
        headings = ["ms", "samples", "mean", "median", "p95", "p99", "min", "max"]
        parts.append(f"<h3>{escape(title)}</h3>{chart}{_legend([each.name for each in series])}")
        parts.append(_table(headings, rows, numbers="1234567"))
    note = "" if any(each.result.latencies.ttft_ms for each in found) else _none("TTFT and ITL need streaming: true")
    return "".join(parts) + note if parts else _none("no request has finished")


def _requests(each: _Experiment) -> Iterable[Any]:
    return (request for stored in each.raws for request in stored.result.requests)


def _cumulative(samples: Sequence[float]) -> list[tuple[float, float]]:
    ordered = sorted(samples)
    count = len(ordered)
    points = [(value, (place + 1) / count) for place, value in enumerate(ordered)]
    step = count // MOST_POINTS + 1
    return [(ordered[0], 0.0), *points[::step], points[-1]] if points else []


def _phases(found: Sequence[_Experiment]) -> str:
    times = []
    for each in found:
        segments = [segment for stored in each.raws for segment in stored.result.segments]
        spent = [(kind, sum(getattr(s, f"{kind}_s") or 0.0 for s in segments)) for kind in ("prefill", "decode")]
        if any(value for _, value in spent):
            times.append(Bars(each.name, spent))
    parts = []
    if times:
        parts.append("<h3>Time</h3>" + bars(times, x="s, all processes and cycles", label="Time by phase"))
        parts.append(_legend(["prefill", "decode"]))
    else:
        parts.append(_none("the backend gave no times of its phases"))
    energies = [
        Bars(each.name, [("prefill", prefill.value), ("decode", decode.value)])
        for each in found
        if (prefill := each.result.energy.prefill).value is not None
        and (decode := each.result.energy.decode).value is not None
    ]
    if energies:
        parts.append(
            "<h3>Energy</h3>" + bars(energies, x="J", label="Energy by phase") + _legend(["prefill", "decode"])
        )
    parts.append(_reasons(found, lambda each: each.result.energy.prefill))
    return "".join(parts)


def _components(found: Sequence[_Experiment]) -> str:
    rows = []
    for each in found:
        name = each.name  # once, in its first row
        for part in ("total", "net", "gpu", "cpu", "ram", "prefill", "decode", "carbon"):
            component: Component = getattr(each.result.energy, part)
            value = _with(component.value, component.uncertainty, component.unit)
            known = (component.source, component.sampling, component.reason)
            source = component.reason if component.value is None else "; ".join(filter(None, known))
            rows.append([name, part, value, component.quality, source or "", component.scope or ""])
            name = ""
    return _table(["", "", "value (95 % interval)", "quality", "source, or why not", "scope"], rows, numbers="2")


def _over_cycles(found: Sequence[_Experiment]) -> str:
    rows = []
    for each in found:
        for name, metric in (each.cycles.metrics if each.cycles else {}).items():
            if metric.mean is not None:
                values = ", ".join(number(value) for value in metric.values)
                rows.append([each.name, name, _with(metric.mean, metric.interval, metric.unit), values])
    return _table(["", "", "mean (95 % interval, Student's t)", "cycles"], rows, numbers="2")


def _provenance(found: Sequence[_Experiment]) -> str:
    rows = []
    for each in found:
        result = each.result
        rows += [
            [each.name, "experiment", result.experiment_id],
            [each.name, "prompts", _prompts(result)],
            [each.name, "model", f"{result.model_name}; {number(result.compute.parameters)} parameters"],
            [each.name, "FLOPs", f"{number(result.compute.flops_total)}; {result.compute.method}"],
            [each.name, "configuration", f"sha256 {result.config_hash}"],
            [each.name, "manifest", f"{each.head}; files {'as written' if each.intact else 'CHANGED: see lem verify'}"],
            *([each.name, key, _text(value)] for key, value in result.environment.items()),
        ]
    parts = [_table(["", "", ""], rows)]
    if len(found) > 1:
        first = found[0]
        for each in found[1:]:
            changed = config_differences(first.result.config, each.result.config)
            pairs = [[key, _text(left), _text(right)] for key, (left, right) in changed.items()]
            parts.append(f"<h3>{escape(first.name)} and {escape(each.name)}</h3>")
            parts.append(_table(["differs", first.name, each.name], pairs) if pairs else _none("one configuration"))
    for each in found:
        flat = dotted(each.result.config)
        given = [[key, _text(flat.get(key)), origin] for key, origin in each.result.provenance.items()]
        table = _table(["key", "value", "from"], given)
        parts.append(f"<details><summary>Configuration of {escape(each.name)}</summary>{table}</details>")
    return "".join(parts)


def _prompts(result: AggregatedResult) -> str:
    source = result.prompts
    where = "; ".join(f"{key} {value}" for key in ("revision", "split", "column") if (value := getattr(source, key)))
    return f"{source.requests} of {source.name}{'; ' + where if where else ''}; sha256 {source.sha256}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
