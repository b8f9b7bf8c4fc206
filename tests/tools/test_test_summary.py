"""CI's last line sums what the tests reported, and counts a target that died without a report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parent.parent.parent / "tools" / "test_summary.py"


def _event(label: str, status: str, report: Path | None) -> str:
    outputs = [] if report is None else [{"name": "test.xml", "uri": report.as_uri()}]
    return json.dumps(
        {"id": {"testResult": {"label": label}}, "testResult": {"status": status, "testActionOutput": outputs}}
    )


def _summary(tmp_path: Path, *events: str) -> tuple[int, str]:
    file = tmp_path / "events.json"
    file.write_text("\n".join(['{"started": {}}', *events]))
    done = subprocess.run([sys.executable, str(PROGRAM), str(file)], capture_output=True, text=True)
    return done.returncode, done.stdout


def _report(tmp_path: Path, tests: int, failures: int, errors: int, skipped: int) -> Path:
    path = tmp_path / f"{tests}{failures}.xml"
    path.write_text(
        f'<testsuites><testsuite tests="{tests}" failures="{failures}" errors="{errors}" skipped="{skipped}"/>'
        "</testsuites>"
    )
    return path


def test_reports_are_summed(tmp_path: Path) -> None:
    passed = _event("//a:a", "PASSED", _report(tmp_path, 5, 0, 0, 2))
    failed = _event("//b:b", "FAILED", _report(tmp_path, 4, 1, 1, 0))
    assert _summary(tmp_path, passed) == (0, "3 passed, 0 failed, 2 skipped\n")
    assert _summary(tmp_path, passed, failed) == (1, "5 passed, 2 failed, 2 skipped\n")


def test_a_target_that_died_counts_as_a_failure(tmp_path: Path) -> None:
    assert _summary(tmp_path, _event("//a:a", "TIMEOUT", None)) == (
        1,
        "//a:a: TIMEOUT\n0 passed, 1 failed, 0 skipped\n",
    )


def test_no_test_is_a_failure(tmp_path: Path) -> None:
    assert _summary(tmp_path) == (1, "0 passed, 0 failed, 0 skipped\n")


def test_a_target_that_was_not_built_is_a_failure(tmp_path: Path) -> None:
    passed = _event("//a:a", "PASSED", _report(tmp_path, 5, 0, 0, 2))
    event = json.dumps({"id": {"targetCompleted": {"label": "//b:b"}}, "completed": {}})
    assert _summary(tmp_path, passed, event) == (1, "//b:b: NOT BUILT\n3 passed, 1 failed, 2 skipped\n")
