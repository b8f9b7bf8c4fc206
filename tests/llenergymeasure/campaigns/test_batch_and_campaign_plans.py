"""What batch and campaign would run, and what they refuse; nothing is measured here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Lem = Callable[..., Any]
Config = Callable[..., Path]


def test_batch_lists_what_matches(lem: Lem, plain_config: Config, tmp_path: Path) -> None:
    for name in ("grid/b.yaml", "grid/a.yml", "grid/c.json"):
        plain_config(name)
    (tmp_path / "grid" / "notes.txt").write_text("")
    ran = lem("batch", "grid/*", "--dry-run")
    assert ran.code == 0
    assert [line.split()[0] for line in ran.stdout.splitlines()[1:]] == ["grid/a.yml", "grid/b.yaml", "grid/c.json"]
    assert all(line.endswith("ready") for line in ran.stdout.splitlines()[1:])
    assert not (tmp_path / "results").exists()
    plain_config("grid/d.yaml", min_output_tokens=500)
    (tmp_path / "grid" / "e.yaml").write_text("config_name: e\nmodel_name: m\nbatchsize: 1\n")
    ran = lem("batch", "grid/*", "--dry-run")
    assert ran.code == 1
    assert "2 of 5 configurations can't run" in ran.stderr
    assert "grid/e.yaml:3: batchsize: no such key" in ran.stdout
    ran = lem("batch", "nothing/*.yaml")
    assert ran.code == 1
    assert "no configuration file matches 'nothing/*.yaml'" in ran.stderr
    assert lem("batch", "grid/*", "--parallel", "0").code == 2


def test_a_preview_says_which_engine_is_not_installed(
    lem: Lem, plain_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # can't be imported
    plain_config("grid/a.yaml")
    vllm = plain_config("grid/b.yaml", backend="vllm")
    ran = lem("batch", "grid/*", "--dry-run")
    first, second = ran.stdout.splitlines()[1:]
    assert first.endswith("ready")
    said = "vllm is not installed; pip install 'medvllm[vllm]'"
    assert said in second
    assert ran.code == 0
    for command in (
        ["experiment", vllm],
        ["campaign", "grid/*", "--campaign-name", "c"],
        ["schedule", vllm, "-i", "1h"],
    ):
        ran = lem(*command, "--dry-run")
        assert ran.code == 0
        assert ran.stderr.count(f"Warning: backend vllm: {said}") == 1, ran.stderr


def test_batch_runs_what_it_can_and_fails_if_any_failed(lem: Lem, plain_config: Config, tmp_path: Path) -> None:
    plain_config("grid/a.yaml")
    plain_config("grid/b.yaml", min_output_tokens=500)
    ran = lem("batch", "grid/*.yaml", "-d", "builtin", "-n", "2")
    assert ran.code == 1
    assert "2 of 2 configurations failed" in ran.stderr
    rows = [line.split()[:3] for line in ran.stdout.splitlines()[1:]]
    assert rows == [["grid/a.yaml", "failed", "(1)"], ["grid/b.yaml", "not", "valid"]]


def test_campaign_shows_its_plan_with_times(lem: Lem, plain_config: Config, tmp_path: Path) -> None:
    paths = [plain_config("a.yaml"), plain_config("b.yaml")]
    ran = lem("campaign", *paths, "--campaign-name", "t", "-c", 2, "--config-gap", 30, "--cycle-gap", 90, "--dry-run")
    assert ran.code == 0
    rows = [line.split() for line in ran.stdout.splitlines()[2:6]]
    assert [row[:3] for row in rows] == [["1", "1", "a"], ["2", "1", "b"], ["3", "2", "a"], ["4", "2", "b"]]
    assert [" ".join(row[5:8]) for row in rows[1:]] == ["+30 s and", "+2 min 00", "+2 min 30"]
    assert "2 min 30 s of gaps" in ran.stdout
    assert not (tmp_path / "results").exists()
    ran = lem("campaign", *paths, "--campaign-name", "t", "-c", 2, "--structure", "grouped", "--dry-run")
    assert [line.split()[2] for line in ran.stdout.splitlines()[2:6]] == ["a", "a", "b", "b"]


def test_campaign_file_with_what_the_command_line_says_over_it(lem: Lem, plain_config: Config, tmp_path: Path) -> None:
    plain_config("sub/a.yaml")
    plain_config("sub/b.yaml")
    path = tmp_path / "campaign.yaml"
    path.write_text(
        "campaign_name: from-file\ndataset: builtin\nnum_samples: 3\nconfigs: [sub/*.yaml]\n"
        "execution: {cycles: 2, config_gap_seconds: 1}\ngrid: {batching.batch_size: [1, 2]}\n"
    )
    ran = lem("campaign", path, "--dry-run")
    assert ran.code == 0
    assert ran.stdout.startswith("from-file: 8 runs")
    assert "a_batch_size=2" in ran.stdout
    assert lem("campaign", path, "--dry-run", "--cycles", 5, "--campaign-name", "x").stdout.startswith("x: 20 runs")


def test_a_campaign_on_a_schedule_shows_when_cycles_begin(lem: Lem, plain_config: Config, tmp_path: Path) -> None:
    plain_config("a.yaml")
    path = tmp_path / "campaign.yaml"
    head = "campaign_name: s\nconfigs: [a.yaml]\n"
    path.write_text(head + "schedule: {at: '09:00', days: weekdays, total_duration: 2w}\n")
    ran = lem("campaign", path, "--dry-run")
    assert "at once" in ran.stdout
    assert ran.stdout.count("09:00") == 2
    path.write_text(head + "schedule: {interval: 6h}\nexecution: {structure: grouped}\n")
    assert "structure must be interleaved or shuffled" in lem("campaign", path, "--dry-run").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a.yaml", "b.yaml"], 2, "--campaign-name is needed with several configurations"),
        (["a.yaml", "a.yaml", "--campaign-name", "x"], 1, "two configurations of the campaign are called a"),
        (["a.yaml", "--campaign-name", "../x"], 2, "a campaign's name is letters"),
        (["a.yaml", "--cycles", "21"], 2, "--cycles"),
        (["a.yaml", "--structure", "random"], 2, "interleaved"),
        (["a.yaml", "--config-gap", "nan"], 2, "expected a number of seconds, got nan"),
        (["*.yml"], 1, "no file matches '*.yml'"),
        (["missing.yaml"], 1, "there is no configuration file missing.yaml"),
        (["bad.yaml"], 1, "the configuration has 1 error(s)"),
        (["campaign.yaml", "a.yaml"], 2, "campaign.yaml is a campaign: give it alone"),
    ],
)
def test_what_a_campaign_refuses(
    lem: Lem, plain_config: Config, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    plain_config("a.yaml")
    plain_config("b.yaml")
    plain_config("bad.yaml", min_output_tokens=500)
    (tmp_path / "campaign.yaml").write_text("campaign_name: c\nconfigs: [a.yaml]\n")
    ran = lem("campaign", *arguments, "--yes")
    assert ran.code == code
    assert message in ran.stderr
    assert ran.stdout == ""


def test_a_warning_without_a_terminal_needs_yes(lem: Lem, plain_config: Config) -> None:
    path = plain_config("a.yaml", batching={"max_tokens_per_batch": 100})
    ran = lem("campaign", path)
    assert ran.code == 1
    assert "run all the same with --yes" in ran.stderr
