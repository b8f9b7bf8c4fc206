"""Progress shows names as they are."""

from __future__ import annotations

import pytest

from llenergymeasure.orchestration.progress import LiveProgress


def test_a_name_in_brackets_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveProgress() as progress:
        progress.stage("loading models/[/x]")
        progress.begin("measuring [/y]", total=2, done=0)
        progress.advance(2, 10)
    assert "measuring [/y]" in capsys.readouterr().err
