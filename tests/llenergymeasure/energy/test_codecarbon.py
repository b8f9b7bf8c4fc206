"""codecarbon: only when it is asked for, named as the estimate it is, without network and without files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llenergymeasure.energy import open_meter
from llenergymeasure.errors import LemError

SCRIPT = """
import json, os, sys, time
opened, connected = [], []
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and set("wax+") & set(str(arguments[1] or "r")):
        opened.append(arguments[0])
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        connected.append(str(arguments))
sys.addaudithook(watch)
from pathlib import Path
from llenergymeasure.energy import open_meter
with open_meter(gpus=None, estimator="codecarbon", interval_s=0.05, powercap_root=Path("none")) as meter:
    baseline = meter.measure_baseline(0.3)
    meter.start()
    time.sleep(0.5)
    reading = meter.stop()
energy = reading.energy(baseline, [])
written = [name for name in opened if not name.endswith(".pyc") and "__pycache__" not in name]
print(json.dumps({"energy": energy.model_dump(), "written": written, "connected": connected,
                  "duration_s": reading.duration_s, "files": os.listdir(".")}))
"""


def test_it_estimates_processor_and_memory_by_a_named_model_and_touches_nothing(tmp_path: Path) -> None:
    path = os.pathsep.join(place for place in sys.path if place)
    environment = {**os.environ, "PYTHONPATH": path, "CODECARBON_LOG_LEVEL": "critical", "HOME": str(tmp_path)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # its log level was heard
    answer = json.loads(done.stdout)
    assert (answer["connected"], answer["files"], answer["written"]) == ([], [], [])
    energy = answer["energy"]
    for name, words in (("cpu", "TDP"), ("ram", "memory of this size")):
        component = energy[name]
        assert component["quality"] == "estimated"
        assert component["value"] > 0
        assert component["source"].startswith("codecarbon 3")
        assert words in component["reason"]
        assert component["uncertainty"] is None
    assert energy["total"]["quality"] == "estimated"
    assert energy["net"]["uncertainty"] is None
    assert energy["carbon"]["value"] is None


def test_an_estimator_or_level_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LemError, match="must be codecarbon or left out, got 'guess'"):
        open_meter(gpus=[], estimator="guess", interval_s=0.1, powercap_root=tmp_path)
    with pytest.raises(LemError, match="more than 0 s, got 0"):
        open_meter(gpus=[], estimator=None, interval_s=0, powercap_root=tmp_path)
    monkeypatch.setenv("CODECARBON_LOG_LEVEL", "loud")
    with pytest.raises(LemError, match=r"CODECARBON_LOG_LEVEL must be one of critical, .* got 'loud'"):
        open_meter(gpus=[], estimator="codecarbon", interval_s=0.1, powercap_root=tmp_path)
