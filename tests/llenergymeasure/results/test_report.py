"""The report: one page, escaped, that loads nothing and says what was not measured."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from llenergymeasure.results.charts import Bars, Series, bars, lines, scatter, ticks
from llenergymeasure.results.report import render
from llenergymeasure.results.schema import RawResult
from llenergymeasure.results.store import ResultStore

EVIL = "</svg></table><script>alert('x')</script><img src=http://x.test/y onerror=alert(1)>\"'&"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
Make = Callable[..., RawResult]


class Page(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(each == tag for each, _ in self.found)


@pytest.fixture
def measured(store: ResultStore, make: Make) -> ResultStore:
    """Two experiments of three cycles with energies and power traces, and one without."""
    for name, factor in (("exp_a", 1.0), ("exp_b", 1.4)):
        for cycle in range(3):
            result = make(
                experiment_id=name,
                config_name=name[4:],
                cycle=cycle,
                cycles=3,
                duration_s=factor * (2 + 0.1 * cycle),
                joules=100 * factor + 5 * cycle,
                power_trace="power_0.jsonl",
                config={"config_name": name[4:], "batching": {"batch_size": factor}},
            )
            trace = "".join(f'{{"segment": 0, "t_s": {t / 10}, "watts": {50 * factor + t % 7}}}\n' for t in range(30))
            store.write_raw(result).with_name("power_0.jsonl").write_text(trace)
        store.aggregate(name)
    store.write_raw(make(experiment_id="exp_none", config_name=EVIL, model_name=EVIL, joules=None, warnings=[EVIL]))
    store.aggregate("exp_none")
    return store


def test_it_has_every_chart_and_loads_nothing(measured: ResultStore) -> None:
    text = render(measured, ["exp_a", "exp_b"])
    page = Page(text)
    assert page.count("svg") == 7  # energy and throughput, power, three latencies, time and energy by phase
    assert page.count("circle") == 6
    assert not {"script", "link", "img", "iframe", "object", "base"} & {tag for tag, _ in page.found}
    for tag, attributes in page.found:
        assert not {"src", "href", "srcset", "action"} & set(attributes), tag
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in text
    assert "@import" not in text
    assert "Content-Security-Policy" in text
    for part in ("cli --max-tokens", "sha256", "batching.batch_size", "a processor", "Student's t", "builtin"):
        assert part in page.text
    svgs = text.split("<svg")[1:]
    for each in svgs:
        ElementTree.fromstring("<svg" + each.split("</svg>")[0] + "</svg>")


def test_what_results_say_is_escaped(measured: ResultStore) -> None:
    text = render(measured, ["exp_a", "exp_none"])
    assert "<script" not in text
    assert "<img" not in text
    assert EVIL in Page(text).text


def test_an_energy_that_is_not_known_is_said_and_not_drawn(measured: ResultStore) -> None:
    page = Page(render(measured, ["exp_none"]))
    assert page.text.count("energy unavailable: no sensor <here>") == 3  # throughput, power, phases
    assert page.count("circle") == 0
    assert page.count("svg") == 4  # latencies, and time by phase


def test_a_damaged_trace_and_a_changed_file_show(measured: ResultStore) -> None:
    for path in measured.root.glob("raw/exp_a/*/power_0.jsonl"):
        path.write_text('{"segment": 0}\n')
    text = Page(render(measured, ["exp_a"])).text
    assert "no power trace was kept" in text
    assert "files CHANGED: see lem verify" in text


def test_the_command_writes_the_page(measured: ResultStore, lem: Callable[..., Any], tmp_path: Path) -> None:
    ran = lem("report", "exp_a", "exp_b", "-o", "out/page.html")
    assert (ran.code, ran.stdout) == (0, "out/page.html\n")
    assert (tmp_path / "out" / "page.html").read_text().startswith("<!doctype html>")
    ran = lem("report", "exp_x", "-o", "never.html")
    assert ran.code == 1
    assert "near it: exp_b, exp_a" in ran.stderr
    assert not (tmp_path / "never.html").exists()


def test_charts_stand_one_point_and_equal_values() -> None:
    for chart in (
        lines([Series("a", [(1.0, 1.0)])], x="x", y="y", label="l"),
        lines([Series("a", [(0.0, 0.0), (0.0, 0.0)])], x="x", y="y", step=True, label="l"),
        scatter([Series("a", [(5.0, 2.0)])], x="x", y="y", label="l"),
        bars([Bars("a" * 40, [("p", 0.0), ("q", 0.0)])], x="x", label='"<l>"'),
    ):
        ElementTree.fromstring(chart)
        assert "nan" not in chart
        assert "inf" not in chart
    assert ticks(0.0, 1.0) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(3.0, 3.0) == [3.0]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")
def test_a_real_browser_draws_it_and_runs_nothing(measured: ResultStore, tmp_path: Path) -> None:
    page, image = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(render(measured, ["exp_a", "exp_b", "exp_none"]), encoding="utf-8")
    assert CHROMIUM is not None
    options = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1000,2400"
    )
    command = [CHROMIUM, *options.split(), f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={image}"]
    subprocess.run([*command, page.as_uri()], capture_output=True, timeout=60, check=True)
    assert image.stat().st_size > 30_000
