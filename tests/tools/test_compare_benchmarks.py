"""compare_benchmarks: ratios by case, the limit, folders, the plot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "tools" / "compare_benchmarks.py"


def _report(path: Path, times: dict[str, float], machine: str = "a CPU") -> Path:
    rows = [
        {"case": name, "provider": "eager", "time_ms": {"n": 3, "median": time}, "floor_ms": 0.5}
        for name, time in times.items()
    ]
    skipped = {"case": "skipped", "provider": "flash", "time_ms": None}
    report = {"benchmark": "kernels", "environment": {"cpu": machine}, "rows": {"nested": [*rows, skipped]}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report))
    return path


def _compare(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(PROGRAM), *map(str, arguments)], capture_output=True, text=True)


def test_ratios_and_what_only_one_has(tmp_path: Path) -> None:
    old = _report(tmp_path / "old.json", {"conv": 2.0, "norm": 1.0, "gone": 1.0})
    new = _report(tmp_path / "new.json", {"conv": 1.0, "norm": 1.3, "added": 1.0})
    done = _compare(old, new)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].split() == ["conv", "/", "eager", "2.0000", "1.0000", "0.500"]
    assert lines[2].split()[-1] == "1.300"
    assert lines[3:] == ["only in old: gone / eager", "only in new: added / eager"]


@pytest.mark.parametrize(("limit", "code"), [("1.2", 1), ("1.4", 0)])
def test_the_limit(tmp_path: Path, limit: str, code: int) -> None:
    old = _report(tmp_path / "old.json", {"conv": 2.0, "norm": 1.0})
    new = _report(tmp_path / "new.json", {"conv": 1.0, "norm": 1.3})
    done = _compare(old, new, "--fail-above", limit)
    assert done.returncode == code
    assert done.stderr == ("slower: norm / eager: 1.300 is above 1.2\n" if code else "")


def test_folders_and_a_plot(tmp_path: Path) -> None:
    old = _report(tmp_path / "old" / "a" / "x.json", {"conv": 2.0}).parent.parent
    new = _report(tmp_path / "new" / "x.json", {"conv": 1.0, "norm": 0.2}).parent
    done = _compare(old, new, "--plot", tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out.png").stat().st_size > 5000


def test_errors_are_one_line(tmp_path: Path) -> None:
    old = _report(tmp_path / "old.json", {"conv": 2.0})
    other = _report(tmp_path / "other.json", {"conv": 2.0}, machine="another CPU")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "empty.json").write_text("{}")
    for arguments, words in (
        ((old, tmp_path / "none.json"), "No such file"),
        ((old, tmp_path / "bad.json"), "bad.json"),
        ((old, tmp_path / "empty.json"), "no timed case"),
        ((old, other), "no case in common"),
    ):
        done = _compare(*arguments)
        assert done.returncode == 1
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    assert _compare(old).returncode == 2
