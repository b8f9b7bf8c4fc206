"""aggregate, results, compare and verify on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from llenergymeasure.results.schema import AggregatedResult, RawResult
from llenergymeasure.results.store import ResultStore

ID = "exp_20240115_123456"
Make = Callable[..., RawResult]
Lem = Callable[..., Any]


def test_aggregate_one_all_and_again(store: ResultStore, make: Make, lem: Lem) -> None:
    store.write_raw(make())
    store.write_raw(make(experiment_id="exp_b"))
    store.write_raw(make(experiment_id="exp_part", processes=2))
    assert lem("results", "list").stdout == ""
    assert "3 pending; --all shows them" in lem("results", "list").stderr
    ran = lem("aggregate", ID)
    assert (ran.code, ran.stdout) == (0, f"results/aggregated/{ID}.json\n")
    assert lem("aggregate", ID).code == 1
    assert lem("aggregate", ID, "--force").code == 0
    ran = lem("aggregate", "--all")
    assert ran.code == 1
    assert ran.stdout == "results/aggregated/exp_b.json\n"
    assert "exp_part can't be aggregated: process 1 of cycle 0 has no result" in ran.stderr
    assert "1 of 2 could not be aggregated: exp_part" in ran.stderr
    ran = lem("aggregate", "exp_part", "--no-strict")
    assert ran.code == 0
    assert "Warning: exp_part: process 1 of cycle 0 has no result" in ran.stderr
    assert lem("aggregate", "--all").stderr == "Note: nothing is pending in results\n"
    assert lem("aggregate").code == lem("aggregate", "--all", ID).code == 2


def test_list_shows_what_is_there(store: ResultStore, make: Make, lem: Lem) -> None:
    assert "there are no aggregated results in results" in lem("results", "list").stderr
    store.write_raw(make())
    store.write_raw(make(experiment_id="exp_b", joules=None))
    store.aggregate(ID)
    store.write_raw(make(experiment_id="exp_damaged")).write_text("{")
    ran = lem("results", "list", "-a")
    assert ran.code == 0
    rows = [line.split() for line in ran.stdout.splitlines()]
    assert [row[:2] for row in rows[1:]] == [[ID, "aggregated"], ["exp_b", "pending"], ["exp_damaged", "unreadable"]]
    assert "100 J measured" in ran.stdout
    assert "Warning: exp_damaged: results/raw/exp_damaged/process_0.json is damaged" in ran.stderr
    data = json.loads(lem("results", "list", "--json", "--all").stdout)
    assert [each["energy_total_j"] for each in data] == [100.0, None, None]


def test_show_has_the_figures_or_why_there_are_none(store: ResultStore, make: Make, lem: Lem) -> None:
    for cycle in (0, 1):
        store.write_raw(make(cycle=cycle, cycles=2, joules=None, duration_s=2.0 + cycle))
    assert f"{ID} is not aggregated yet; run: lem aggregate {ID}" in lem("results", "show", ID).stderr
    store.aggregate(ID)
    ran = lem("results", "show", ID)
    assert ran.code == 0
    assert "unavailable: no sensor <here>" in ran.stdout
    assert "Over 2 cycles" in ran.stdout
    assert "0 J" not in ran.stdout
    assert "TTFT" in ran.stdout
    data = json.loads(lem("results", "show", ID, "--json").stdout)
    assert data.pop("multi_cycle")["metrics"]["duration_s"]["mean"] == 2.5
    assert AggregatedResult.model_validate(data) == store.load(ID)
    ran = lem("results", "show", ID, "--raw")
    assert [line.split()[:3] for line in ran.stdout.splitlines()[2:]] == [["0", "0", "yes"], ["1", "0", "yes"]]
    raw = json.loads(lem("results", "show", ID, "--raw", "--json").stdout)
    assert [RawResult.model_validate(each).cycle for each in raw] == [0, 1]


def test_a_missing_id_names_the_near_ones(store: ResultStore, make: Make, lem: Lem) -> None:
    store.write_raw(make())
    for command in (("results", "show"), ("aggregate",), ("verify",)):
        ran = lem(*command, "exp_20240115_12345")
        assert (ran.code, ran.stdout) == (1, "")
        assert ran.stderr.endswith(f"near it: {ID}\n")
    assert (
        "there are no results in elsewhere; give the folder with --results-dir"
        in lem("verify", ID, "-o", "elsewhere").stderr
    )


def test_the_folder_comes_from_the_option_or_the_environment(
    store: ResultStore, make: Make, lem: Lem, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ResultStore(store.root.parent / "other")
    other.write_raw(make())
    monkeypatch.setenv("LLM_ENERGY_RESULTS_DIR", "other")
    assert ID in lem("results", "list", "--all").stdout
    assert lem("results", "list", "--all", "-o", "results").stdout == ""


def test_compare_shows_effects_and_refuses_unlike_work(store: ResultStore, make: Make, lem: Lem) -> None:
    for name, durations, tokens in (("a", (2.0, 2.2, 2.1), 5), ("b", (3.0, 3.3, 3.2), 5), ("c", (3.0, 3.1), 6)):
        for cycle, duration in enumerate(durations):
            store.write_raw(
                make(
                    experiment_id=name,
                    cycle=cycle,
                    cycles=len(durations),
                    duration_s=duration,
                    config={"max_output_tokens": tokens, "batching": {"batch_size": tokens}},
                )
            )
        store.aggregate(name)
    ran = lem("compare", "a", "b")
    assert ran.code == 0
    assert "A = a, B = b, unpaired" in ran.stdout
    row = next(line for line in ran.stdout.splitlines() if line.startswith("duration_s"))
    assert "+50.8%" in row
    assert row.split()[-1] == "0.001"
    data = json.loads(lem("compare", "a", "b", "--json", "--paired").stdout)
    assert data["paired"]
    assert data["metrics"]["duration_s"]["comparison"]["interval"]["level"] == 0.95
    assert data["metrics"]["energy_total_j"]["quality"] == ["measured", "measured"]
    ran = lem("compare", "a", "c")
    assert ran.code == 1
    assert "max_output_tokens 5 and 6; --allow-unlike-workloads compares them all the same" in ran.stderr
    ran = lem("compare", "a", "c", "--allow-unlike-workloads")
    assert ran.code == 0
    assert "batching.batch_size" in ran.stdout


def test_verify_says_what_differs(store: ResultStore, make: Make, lem: Lem) -> None:
    path = store.write_raw(make())
    store.aggregate(ID)
    ran = lem("verify", ID)
    assert ran.code == 0
    head = ran.stdout.split()[-1]
    assert lem("verify", ID, "--head", head).code == 0
    assert "it was written anew" in lem("verify", ID, "--head", "0" * 64).stderr
    data = path.read_bytes()
    path.write_bytes(data.replace(b"a processor", b"b processor"))
    ran = lem("verify", ID)
    assert ran.code == 1
    assert ran.stdout == f"raw/{ID}/process_0.json: changed: its SHA-256 is another\n"
    assert "1 file(s) differ" in ran.stderr


def test_names_that_would_steer_a_terminal_are_shown_plain(store: ResultStore, make: Make, lem: Lem) -> None:
    store.write_raw(make(config_name="evil\x1b[31m\x9b31m[red]x[/red]"))
    store.aggregate(ID)
    for command in (("results", "list"), ("results", "show", ID)):
        ran = lem(*command)
        assert "\x1b" not in ran.stdout
        assert "\x9b" not in ran.stdout
        assert "[red]x[/red]" in ran.stdout
