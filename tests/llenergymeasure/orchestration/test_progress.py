"""Progress shows names as they are, and stages as they go on."""

from __future__ import annotations

import pytest

from llenergymeasure.orchestration.progress import LiveProgress, PlainProgress


def test_a_name_in_brackets_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveProgress() as progress:
        progress.stage("loading models/[/x]")
        progress.begin("measuring [/y]", total=2, done=0)
        progress.advance(2, 10)
    assert "measuring [/y]" in capsys.readouterr().err


def test_the_steps_of_a_quick_stage_do_not_fill_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress() as progress:
        progress.stage("warming up")
        for each in range(1, 6):
            progress.step(f"warming up: {each}/5")
    assert capsys.readouterr().err == "warming up\n"


def test_a_step_takes_the_place_of_the_last_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LiveProgress()
    progress.stage("warming up")
    progress.step("warming up: 1/[/5]")
    progress.step("warming up: 2/[/5]")
    with progress:
        shown = [task.description for task in progress._bar.tasks]
    assert shown == ["warming up: 2/[/5]"]
