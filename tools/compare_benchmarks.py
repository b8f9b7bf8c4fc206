"""Compares benchmark reports: `python tools/compare_benchmarks.py OLD NEW [--fail-above 1.10] [--plot out.png]`.

OLD and NEW are JSON files that benchmarks/ wrote, or folders of them. Prints, for every case that both have, the median
times and new / old: above 1 is slower now. With --fail-above the exit code is 1 when a ratio is above it. --plot draws
the time of NEW against the floor of each case (the time of a copy of as many bytes), with OLD beside it unless both are
the same. Exit codes: 0; 1 a ratio above the limit, or nothing to compare; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Key = tuple[str, str, str, str]  # benchmark, device, case, provider


class ReportError(Exception):
    """A report can't be read: what and why, in one line."""


@dataclass(frozen=True)
class Timing:
    """The median of a case, and its floor where it has one, in milliseconds."""

    median_ms: float
    floor_ms: float | None


def read(path: Path) -> dict[Key, Timing]:
    """The timings of a report or of all reports in a folder."""
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    found: dict[Key, Timing] = {}
    for file in files:
        try:
            report = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise ReportError(f"{file}: {error}") from error
        if isinstance(report, dict):
            environment = report.get("environment") or {}
            gpu = environment.get("gpu") or {}
            machine = str(gpu.get("name") or environment.get("cpu") or "unknown machine")
            for row in rows(report):
                key = (str(report.get("benchmark", file.stem)), machine, row["case"], str(row.get("provider", "")))
                found[key] = Timing(float(row["time_ms"]["median"]), row.get("floor_ms"))
    if not found:
        raise ReportError(f"{path}: no timed case in it; expected a report of benchmarks/, or a folder of them")
    return found


def rows(report: Any) -> Iterator[dict[str, Any]]:
    """Every timed row anywhere in a report."""
    if isinstance(report, dict):
        times = report.get("time_ms")
        if isinstance(report.get("case"), str) and isinstance(times, dict) and times.get("median"):
            yield report
        report = list(report.values())
    if isinstance(report, list):
        for value in report:
            yield from rows(value)


def table(old: dict[Key, Timing], new: dict[Key, Timing]) -> tuple[list[str], dict[Key, float]]:
    """Lines to print, and new / old of each case in both."""
    ratios = {key: new[key].median_ms / old[key].median_ms for key in new if key in old}
    width = max((len(_label(key)) for key in ratios), default=4)
    lines = [f"{'case':<{width}}  {'old ms':>10}  {'new ms':>10}  new/old"]
    for key, ratio in ratios.items():
        lines.append(f"{_label(key):<{width}}  {old[key].median_ms:>10.4f}  {new[key].median_ms:>10.4f}  {ratio:>7.3f}")
    for name, only in (("old", old.keys() - new.keys()), ("new", new.keys() - old.keys())):
        lines += [f"only in {name}: {_label(key)}" for key in sorted(only)]
    return lines, ratios


def _label(key: Key) -> str:
    return f"{key[2]} / {key[3]}" if key[3] else key[2]


def plot(old: dict[Key, Timing], new: dict[Key, Timing], path: Path) -> None:
    """Time against the floor of each case that has one; on the line, a case takes as long as a copy."""
    try:
        import matplotlib
    except ImportError as error:
        raise ReportError("--plot needs matplotlib; install it: pip install matplotlib") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    cases = {key: timing for key, timing in new.items() if timing.floor_ms}
    if not cases:
        raise ReportError("--plot: no case of NEW has a floor")
    figure, axes = pyplot.subplots(figsize=(10, 1.2 + 0.32 * len(cases)), layout="constrained")
    places = range(len(cases))
    axes.barh(places, [timing.floor_ms for timing in cases.values()], height=0.7, color="#c9d6e3", label="floor (copy)")
    axes.plot([timing.median_ms for timing in cases.values()], places, "o", color="#1f4e79", label="new")
    both = [(old[key].median_ms, place) for place, key in zip(places, cases, strict=True) if key in old]
    if old != new and both:
        axes.plot(*zip(*both, strict=True), "x", color="#b5541c", label="old")
    for place, timing in zip(places, cases.values(), strict=True):
        share = 100 * (timing.floor_ms or 0) / timing.median_ms
        axes.text(1.01, place, f"{share:.0f} %", va="center", fontsize=8, transform=axes.get_yaxis_transform())
    axes.set(xscale="log", xlabel="ms a call (median); at the right: floor / median of new", yticks=places)
    axes.set_yticklabels([_label(key) for key in cases], fontsize=8)
    axes.set_title(" · ".join(sorted({key[1] for key in cases})), fontsize=10, loc="left")
    axes.margins(x=0.05, y=0.02)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="report or folder")
    parser.add_argument("new", type=Path, help="report or folder")
    parser.add_argument("--fail-above", type=float, metavar="RATIO", help="exit 1 when new / old is above this")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the times of NEW against the floor")
    arguments = parser.parse_args(argv)
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    try:
        old, new = read(arguments.old), read(arguments.new)
        lines, ratios = table(old, new)
        if arguments.plot:
            plot(old, new, arguments.plot)
    except (ReportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    if not ratios:
        print("error: OLD and NEW have no case in common", file=sys.stderr)
        return 1
    limit = arguments.fail_above
    slower = [key for key, ratio in ratios.items() if limit is not None and ratio > limit]
    for key in slower:
        print(f"slower: {_label(key)}: {ratios[key]:.3f} is above {limit}", file=sys.stderr)
    return int(bool(slower))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
