"""A run that ends in any way goes on to the result that it would have had, to the last bit."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

# Checkpoints fall in the middle of epochs; a step is three batches; the last batch and step of an epoch are smaller.
LOOP = ("--epochs", "2", "--batch-size", "4", "--grad-accum", "3", "--schedule", "onecycle", "--warmup-steps", "4")
SETTINGS = (*LOOP, "--save-every", "4", "--log-every", "1", "--metric", "accuracy")
STEPS = 18


def same(first: Path, second: Path) -> bool:
    """Whether two runs end in the same weights, optimiser, random states and metrics but for times."""
    names = ("model.safetensors", *(f"checkpoints/step-{STEPS:08d}/{name}" for name in ("training_state.pt",)))
    files = all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    return files and _rows(first) == _rows(second)


def _rows(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "examples_per_s"} for row in rows]


@pytest.fixture
def whole(fork: Any, tmp_path: Path) -> Path:
    """A run without an interruption."""
    code, _, err = fork.train(tmp_path / "whole", *SETTINGS).wait()
    assert code == 0, err
    assert len(list((tmp_path / "whole" / "checkpoints").iterdir())) >= 2
    return tmp_path / "whole"


def test_killed_at_a_random_step_it_ends_in_the_same_bits(fork: Any, whole: Path, tmp_path: Path) -> None:
    for attempt in range(2):
        run = tmp_path / f"killed-{attempt}"
        rows = random.randint(1, STEPS)
        code, _, _ = fork.train(run, *SETTINGS).after(rows, run / "metrics.jsonl").send(signal.SIGKILL).wait()
        assert code == -signal.SIGKILL
        code, _, err = fork.train(run, *SETTINGS).wait()
        assert code == 0, err
        assert same(whole, run), f"killed after {rows} lines of metrics"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_writes_a_checkpoint_first(fork: Any, whole: Path, tmp_path: Path, number: int, code: int) -> None:
    run = tmp_path / "stopped"
    rarely = (*SETTINGS, "--save-every", "100")  # so that it is the signal that writes one
    ended, out, err = fork.train(run, *rarely).after(3, run / "metrics.jsonl").send(number).wait()
    assert (ended, out) == (code, "")
    step = int(err.split("interrupted after step ")[1].split(";")[0])
    assert max(path.name for path in (run / "checkpoints").iterdir()) == f"step-{step:08d}"
    assert not (run / "model.safetensors").exists()
    ended, _, err = fork.train(run, *SETTINGS).wait()
    assert ended == 0
    assert f"going on from {run}/checkpoints/step-{step:08d}" in err
    assert same(whole, run)


def test_a_full_disk_is_one_line_and_leaves_the_older_checkpoint(fork: Any, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "full"
    assert fork.train(run, *SETTINGS, "--max-steps", "4").wait()[0] == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and "checkpoints" in path.parts}
    code, out, err = fork.train(run, *SETTINGS, file_limit=50_000).wait()  # the weights are more
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("Error: the checkpoint of step 8 could not be written to ")
    assert "free some space" in err
    assert "goes on from step-00000004" in err
    assert {path: path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()} == before
    assert fork.train(run, *SETTINGS, "--resume", "auto").wait()[0] == 0


def test_checkpoints_of_other_data_or_settings_are_refused(fork: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "unused.json").write_text('{"unused": true}')
    assert fork.train(run, "--max-steps", "2", "--batch-size", "8").wait()[0] == 0
    code, _, err = fork.train(run, "--max-steps", "4", "--batch-size", "16").wait()
    assert code == 1
    assert "was made with batch size over all ranks 8, now it is 16" in err
    assert "--resume none" in err
    code, _, err = fork.train(run, "--max-steps", "4", "--batch-size", "16", "--resume", "none").wait()
    assert code == 0
    assert "going on" not in err
    more = ("--max-steps", "6", "--batch-size", "16", "--lr", "0.01", "--weight-decay", "0.5", "--no-progress")
    code, _, err = fork.train(run, *more).wait()
    assert code == 0
    changed = "max_steps 6 (was 4), lr 0.01 (was 0.001), weight_decay 0.5 (was 0.01)"
    assert err == f"Warning: other settings than before: {changed}\n"
    state = torch.load(run / "checkpoints" / "step-00000006" / "training_state.pt", weights_only=True)
    assert [group["weight_decay"] for group in state["optimizer"]["param_groups"]] == [0.5, 0.0]
    code, _, err = fork.train(run, *more, "--max-steps", "8", "--config", "unused.json").wait()
    assert code == 1
    assert "only one of the two has unused.bias, unused.weight" in err
    code, _, err = fork.train(run, "--resume", str(tmp_path / "nowhere")).wait()
    assert code == 1
    assert "no checkpoint" in err


def test_a_finished_run_says_so(fork: Any, whole: Path) -> None:
    before = (whole / "model.safetensors").read_bytes()
    code, out, err = fork.train(whole, *SETTINGS).wait()
    assert code == 0
    assert "finished already" in err
    assert "accuracy" in out
    assert (whole / "model.safetensors").read_bytes() == before


def test_another_metric_measures_the_best_model_so_far(fork: Any, tmp_path: Path) -> None:
    """A loss of 0.6 is no accuracy of 0.6 that later ones must exceed."""
    run = tmp_path / "run"
    loop = ("--epochs", "3", "--batch-size", "8", "--eval-every", "2", "--keep", "9")
    assert fork.train(run, *loop, "--max-steps", "4").wait()[0] == 0
    before = json.loads((run / "trainer.json").read_text())["result"]
    assert fork.train(run, *loop, "--max-steps", "6", "--metric", "accuracy").wait()[0] == 0
    position = json.loads((run / "checkpoints" / "step-00000006" / "position.json").read_text())["position"]
    assert position["best_metric"] == position["best_metrics"]["accuracy"] >= before["metrics"]["accuracy"]


def test_a_kill_while_old_checkpoints_are_removed_leaves_no_half_one(tmp_path: Path) -> None:
    from medvllm.training.checkpoint import checkpoints, prune, remove_after

    for step in (1, 2, 3):
        (tmp_path / f"step-{step:08d}" / "part").mkdir(parents=True)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.rmdir", killed)  # within the removal of the folder
        with pytest.raises(KeyboardInterrupt):
            remove_after(tmp_path, 2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000001", "step-00000002"]
    prune(tmp_path, keep=1, best_step=None)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_a_checkpoint_with_code_in_it_is_refused(fork: Any, tmp_path: Path) -> None:
    """`weights_only` reading: what a pickle would run is not run."""
    import pickle

    run, mark = tmp_path / "run", tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (mark,)

    assert fork.train(run, "--max-steps", "2").wait()[0] == 0
    state = run / "checkpoints" / "step-00000002" / "training_state.pt"
    state.write_bytes(pickle.dumps(Evil()))
    code, _, err = fork.train(run, "--max-steps", "4").wait()
    assert code == 1
    assert f"{state} can't be read" in err
    assert not mark.exists()
    weights = state.with_name("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    code, _, err = fork.train(run, "--max-steps", "4").wait()
    assert code == 1
    assert f"{weights} can't be read" in err
