"""The machine's record, and `lem gpus` where there is no GPU."""

from __future__ import annotations

import getpass
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from llenergymeasure.cli.gpu_commands import gpus
from llenergymeasure.hardware.environment import environment_record, host_id
from llenergymeasure.hardware.topology import Gpu, MigInstance, read_topology, visible

FOUR = [Gpu(index, f"GPU-{index}{index}ab", "A", 1, mig_enabled=index == 3) for index in range(4)]


def test_the_record_says_what_ran_and_names_no_one() -> None:
    record = environment_record()
    assert record["cpu"]["logical_cores"] == os.cpu_count()
    assert record["memory_mib"]["total"] > 0
    assert record["python"] == platform.python_version()
    assert record["packages"]["numpy"]
    assert record["host"] == host_id()
    assert len(record["host"]) == 12
    text = json.dumps(record)
    assert platform.node() not in text
    assert str(Path.home()) not in text
    if getpass.getuser() not in ("root", "build", "user"):  # words that a system's name may hold
        assert getpass.getuser() not in text


def test_the_record_imports_no_torch() -> None:
    code = (
        "import sys; from llenergymeasure.hardware.environment import environment_record as r; r(); "
        "sys.exit(str(sorted({'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules)) or '') or 0)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(place for place in sys.path if place)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_machine_without_a_gpu_says_so_and_is_content() -> None:
    if read_topology().gpus:
        pytest.skip("this machine has a GPU")
    result = CliRunner().invoke(gpus, [])
    assert result.exit_code == 0
    assert result.output.startswith("No GPU was found (")
    assert "run on the CPU" in result.output
    plain = json.loads(CliRunner().invoke(gpus, ["--json"]).output)
    assert plain["gpus"] == []
    assert plain["reason"]


def test_cuda_visible_devices_is_read_as_cuda_reads_it() -> None:
    def places(setting: str | None) -> list[int]:
        return [place for place, _ in visible(FOUR, setting)]

    assert places(None) == [0, 1, 2, 3]
    assert places("2,0") == [2, 0]
    assert places("") == places("-1") == places("none") == []
    assert places("1,7,0") == [1]  # the first that names nothing hides the rest
    assert places("GPU-22,GPU-0") == [2, 0]
    assert places("GPU-") == []  # names several


def test_mig_instances_are_named_by_uuid_or_the_old_way() -> None:
    one = MigInstance(0, "MIG-aa-1", "1g.5gb", None, 7, 0)
    gpu = Gpu(0, "GPU-x", "A", 1, mig_enabled=True, instances=(one,))
    assert visible([gpu], "MIG-aa") == visible([gpu], "MIG-GPU-x/7/0") == [(0, one)]
    assert visible([gpu], "MIG-GPU-x/8/0") == []
