"""The model registry: persistent, safe under concurrent processes and kills, and never losing a broken file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medvllm.errors import MedvllmError
from medvllm.registry import ModelRegistry, RegistryWarning

REGISTER = """
import sys
from pathlib import Path
from medvllm.registry import ModelRegistry
ModelRegistry(Path(sys.argv[1])).register(sys.argv[2], "org/" + sys.argv[2], type="causal-lm")
"""
REGISTER_FOR_EVER = """
import itertools, sys
from pathlib import Path
from medvllm.registry import ModelRegistry
registry = ModelRegistry(Path(sys.argv[1]))
for number in itertools.count():
    registry.register(f"model-{number}", "org/model", description="x" * 2000)
    print(number, flush=True)
"""


def _python(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )


def _own(registry: ModelRegistry) -> list[str]:
    return [entry.name for entry in registry.entries() if not entry.builtin]


def test_fifty_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    running = [_python(REGISTER, str(tmp_path), f"model-{number:02}") for number in range(50)]
    assert [process.wait() for process in running] == [0] * 50
    assert _own(ModelRegistry(tmp_path)) == [f"model-{number:02}" for number in range(50)]


def test_kill_in_the_middle_of_writing_leaves_a_valid_registry(tmp_path: Path) -> None:
    for moment in (0.0, 0.003, 0.01, 0.02):
        home = tmp_path / str(moment)
        process = _python(REGISTER_FOR_EVER, str(home))
        assert process.stdout is not None
        reported = [process.stdout.readline() for _ in range(5)]
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        reported += process.stdout.readlines()
        process.wait()
        json.loads((home / "registry.json").read_text())
        names = _own(ModelRegistry(home))
        assert set(names) >= {f"model-{int(line)}" for line in reported if line.endswith("\n")}
        ModelRegistry(home).register("after", "org/after")  # the dead process holds no lock
        assert "after" in _own(ModelRegistry(home))


def test_entries_keep_what_was_given(tmp_path: Path) -> None:
    model = tmp_path / "my model"
    model.mkdir()
    given = ModelRegistry(tmp_path).register(
        "mine", str(model), type="token-classification", description="d", tags=["a"], parameters={"k": "v"}
    )
    entry = ModelRegistry(tmp_path).get("mine")
    assert entry == given
    assert (entry.path, entry.tasks, entry.parameters) == (str(model), ["ner"], {"k": "v"})
    ModelRegistry(tmp_path).unregister("mine")
    assert _own(ModelRegistry(tmp_path)) == []


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("a b", "org/x", "a model name is"),
        ("x", "./missing", "expected a file, a folder or a hub id"),
        ("x", "a b/c", "expected a file, a folder or a hub id"),
    ],
)
def test_bad_entries_are_refused(tmp_path: Path, name: str, path: str, message: str) -> None:
    with pytest.raises(MedvllmError, match=message):
        ModelRegistry(tmp_path).register(name, path)


def test_a_name_is_not_taken_twice_but_can_be_replaced(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    registry.register("x", "org/one")
    with pytest.raises(MedvllmError, match="already registered; use --replace"):
        registry.register("x", "org/two")
    registry.register("x", "org/two", replace=True)
    assert registry.get("x").path == "org/two"


def test_builtin_models_can_be_hidden_but_not_removed(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    with pytest.raises(MedvllmError, match="built in"):
        registry.unregister("biogpt")
    registry.register("biogpt", "org/own")
    assert registry.get("biogpt").path == "org/own"
    registry.unregister("biogpt")
    assert registry.get("biogpt").path == "microsoft/biogpt"


def test_unknown_model_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(MedvllmError, match="'biogtp' is not registered; registered are biogpt"):
        ModelRegistry(tmp_path).get("biogtp")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"models": {', "not JSON at line 1"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "not a registry"),
        (b'{"models": {"a": {"path": 3}}}', "not a registry"),
    ],
)
def test_broken_file_is_kept_aside_and_said(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "registry.json").write_bytes(content)
    registry = ModelRegistry(tmp_path)
    with pytest.warns(RegistryWarning, match=reason):
        assert _own(registry) == []
    assert (tmp_path / "registry.json.broken-1").read_bytes() == content
    registry.register("x", "org/x")
    assert _own(registry) == ["x"]


def test_clear_cache_counts_what_it_frees(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    registry.register("x", "org/x")
    (tmp_path / "cache" / "a").mkdir(parents=True)
    (tmp_path / "cache" / "a" / "f").write_bytes(b"x" * 1000)
    assert registry.clear_cache() == 1000
    assert registry.clear_cache() == 0
    assert _own(registry) == ["x"]
