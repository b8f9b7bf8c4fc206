"""What a run leaves behind, what it keeps, and what stops it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ENTRYPOINT = Path(__file__).parent / "tiny_entrypoint.py"


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_run_folder_is_a_model(fork: Any, tmp_path: Path) -> None:
    """transformers loads it, `model register` takes it, and its files are readable as other files are."""
    import torch
    from transformers import AutoModelForTokenClassification

    run = tmp_path / "run"
    code, out, err = fork.train(run, "--epochs", "2", "--metric", "accuracy", "--json").wait()
    assert code == 0, err
    result = json.loads(out)
    assert (result["steps"], result["epochs"], result["device"], result["ranks"]) == (14, 2.0, "cpu", 1)
    model, notes = AutoModelForTokenClassification.from_pretrained(run, local_files_only=True), None
    assert model.config.id2label == {0: "O", 1: "B-condition"}
    assert model.config.architectures == ["BertForTokenClassification"]
    from medvllm.training.entrypoint import load_entrypoint
    from medvllm.training.evaluation import evaluate

    _, _, notes = load_entrypoint(f"{ENTRYPOINT}:build")({})
    from medvllm.training.config import TrainerConfig
    from medvllm.training.distributed import Ranks
    from medvllm.training.precision import choose_precision

    ranks = Ranks(0, 1, torch.device("cpu"))
    precision = choose_precision(TrainerConfig(output=run), ranks)
    measured = evaluate(model, notes, ranks=ranks, precision=precision, batch_size=16)
    assert measured == pytest.approx(result["metrics"], abs=1e-6)
    assert {path.stat().st_mode & 0o444 for path in run.iterdir() if path.is_file()} == {
        (run / "metrics.jsonl").stat().st_mode & 0o444
    }
    registered = ("model", "register", "mine", str(run), "--type", "token-classification")
    assert fork.cli(*registered).wait()[0] == 0
    code, out, _ = fork.cli("model", "info", "mine", "--json").wait()
    assert json.loads(out)["path"] == str(run)


def test_progress_is_on_stderr_and_metrics_are_a_line_a_step(fork: Any, tmp_path: Path) -> None:
    code, out, err = fork.train(tmp_path / "run", "--epochs", "2", "--log-every", "5").wait()
    assert code == 0
    assert out.startswith("steps:          14 (2 epochs)\n")
    assert "step 14/14  ETA 0:00  loss " in err
    assert "evaluation: loss " in err
    found = rows(tmp_path / "run")
    assert [row["step"] for row in found if "loss" in row] == [5, 10, 14]
    assert [row["step"] for row in found if "eval_loss" in row] == [7, 14]
    assert set(found[0]) == {"step", "epoch", "loss", "lr", "grad_norm", "examples_per_s"}


def test_the_best_model_is_kept_and_a_run_without_gain_ends(fork: Any, tmp_path: Path) -> None:
    """A rate that is far too high after a while: the best evaluation is not the last."""
    from safetensors.torch import load_file

    run = tmp_path / "run"
    given = ("--epochs", "40", "--optimizer", "adam", "--lr", "3", "--warmup-steps", "280", "--clip", "0")
    keeping = ("--early-stopping", "2", "--keep", "1", "--metric", "accuracy", "--schedule", "constant")
    code, out, err = fork.train(run, *given, *keeping, "--json").wait()
    assert code == 0, err
    result = json.loads(out)
    assert result["stopped_early"]
    assert "stopped early: 2 evaluations without a better accuracy" in err
    evaluations = [row for row in rows(run) if "eval_accuracy" in row]
    best = max(evaluations, key=lambda row: row["eval_accuracy"])
    assert best is evaluations[-3]
    assert result["best_step"] == best["step"]
    assert result["metrics"]["accuracy"] == best["eval_accuracy"]
    kept = sorted((run / "checkpoints").iterdir())
    assert [path.name for path in kept] == [f"step-{best['step']:08d}", f"step-{result['steps']:08d}"]
    first, last, model = (load_file(path / "model.safetensors") for path in (*kept, run))
    assert all(bool((model[name] == first[name]).all()) for name in model)
    assert not all(bool((model[name] == last[name]).all()) for name in model)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(fork: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    given = ("--entrypoint", f"{ENTRYPOINT}:poisoned", "--output", str(run), "--batch-size", "8", "--save-every", "2")
    code, out, err = fork.cli("training", "train", *given).wait()
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith("Error: the loss is nan at step 6; the last good checkpoint is ")
    assert "step-00000004" in last
    assert "--lr" in last
    from safetensors.torch import load_file

    weights = load_file(run / "checkpoints" / "step-00000004" / "model.safetensors")
    assert all(bool(weight.isfinite().all()) for weight in weights.values())


def test_a_step_is_no_longer_than_clip_allows(fork: Any, tmp_path: Path) -> None:
    """Plain SGD of rate 1: what the weights move in a step is the clipped gradient."""
    from safetensors.torch import load_file

    for steps in ("1", "2"):
        given = ("--optimizer", "sgd", "--momentum", "0", "--weight-decay", "0", "--schedule", "constant", "--lr", "1")
        assert fork.train(tmp_path / steps, *given, "--clip", "0.01", "--max-steps", steps).wait()[0] == 0
    one, two = (load_file(tmp_path / steps / "model.safetensors") for steps in ("1", "2"))
    moved = sum(float((one[name] - two[name]).square().sum()) for name in one) ** 0.5
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_mixed_precision_keeps_float32_weights(fork: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    code, out, err = fork.train(tmp_path / "run", "--epochs", "6", "--amp", "--json", "--lr", "0.005").wait()
    assert code == 0, err
    result = json.loads(out)
    assert result["precision"] == "bfloat16"
    assert {str(weight.dtype) for weight in load_file(tmp_path / "run" / "model.safetensors").values()} == {
        "torch.float32"
    }
    losses = [row["loss"] for row in rows(tmp_path / "run") if "loss" in row]
    assert losses[-1] < 0.6 * losses[0]
    code, _, err = fork.train(tmp_path / "run", "--amp", "--amp-dtype", "float16").wait()
    assert code == 1
    assert "float16 is for CUDA, the device is cpu; use bfloat16" in err


def test_tensorboard_gets_every_line(fork: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    for steps in ("4", "8"):
        code, _, err = fork.train(run, "--max-steps", steps, "--log-every", "2", "--tensorboard").wait()
        assert code == 0, err
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [2, 4, 6, 8]


def test_data_workers_change_nothing(fork: Any, tmp_path: Path) -> None:
    for run, workers in (("none", "0"), ("two", "2")):
        code, _, err = fork.train(tmp_path / run, "--max-steps", "4", "--num-workers", workers).wait()
        assert code == 0, err
    assert (tmp_path / "none" / "model.safetensors").read_bytes() == (
        tmp_path / "two" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            "no_such_module:build",
            "there is no module 'no_such_module'; install it, run in its folder, or give /path/to",
        ),
        ("json.nothing:build", "there is no module 'json.nothing'"),
        ("/nowhere/file.py:build", "there is no file /nowhere/file.py"),
        ("json", "--entrypoint must be module:function or /path/to/file.py:function, got 'json'"),
        ("{file}:absent", "has no 'absent'; it has "),
        ("{file}:not_callable", "not_callable is no function but int"),
        ("{file}:raises", "it raised ValueError: no notes here at {file}:"),
        ("{file}:leaves", "it raised SystemExit: 0 at {file}:"),
        ("{file}:pair", "must return (model, train_dataset, eval_dataset_or_none), got 2 values: BertForTokenCl"),
        ("{file}:no_module", "the first must be a torch.nn.Module, got str"),
        (
            "{file}:no_dataset",
            "the training data must have __len__ and __getitem__, as a torch Dataset or a list has; got int",
        ),
        ("{file}:no_loss", "forward must give a 'loss' (one number) for a batch that is a dict"),
        ("{broken}:build", "importing it failed with SyntaxError: "),
    ],
)
def test_an_entrypoint_that_does_not_serve_is_explained(
    fork: Any, tmp_path: Path, reference: str, message: str
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("def build(config:\n")
    names = {"file": str(ENTRYPOINT.resolve()), "broken": str(broken)}
    for name, path in names.items():
        reference, message = reference.replace(f"{{{name}}}", path), message.replace(f"{{{name}}}", path)
    code, out, err = fork.cli("training", "train", "--entrypoint", reference, "--output", "run").wait()
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert err.startswith("Error: ")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--output", "run"], 2, "give one of --toy and --entrypoint"),
        (["--toy", "--entrypoint", "a:b", "--output", "run"], 2, "give one of --toy and --entrypoint"),
        (["--toy"], 2, "Missing option '--output'"),
        (["--toy", "--output", "run", "--config", "c.json"], 2, "--config is for --entrypoint"),
        (["--toy", "--output", "run", "--device", "tpu"], 2, "'tpu' is not one of 'auto', 'cpu', 'cuda', 'xla'"),
        (["--toy", "--output", "run", "--batch-size", "0"], 2, "'--batch-size': 0 is not in the range x>=1"),
        (
            ["--toy", "--output", "run", "--metric", "f1"],
            1,
            "--metric f1 is not among what the evaluation gives: loss, acc",
        ),
        (["--entrypoint", "a:b", "--output", "run", "--config", "none.json"], 1, "none.json: there is no such file"),
        (["--entrypoint", "a:b", "--output", "run", "--config", "bad.json"], 1, "is not JSON at line 2, column 1"),
        (["--entrypoint", "a:b", "--output", "run", "--config", "list.json"], 1, "must hold a JSON object, got list"),
        (["--entrypoint", "a:b", "--output", "run", "--config", "."], 1, "--config . can't be read: Is a directory"),
    ],
)
def test_wrong_arguments_are_one_line(fork: Any, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "bad.json").write_text('{"a": 1,\n}')
    (work / "list.json").write_text("[]")
    ended, out, err = fork.cli("training", "train", *arguments).wait()
    assert (ended, out) == (code, "")
    assert message in err.splitlines()[-1]


def test_without_torch_xla_the_error_says_how_to_get_it(fork: Any) -> None:
    import importlib.util

    if importlib.util.find_spec("torch_xla") is not None:
        pytest.skip("torch_xla is installed")
    code, _, err = fork.cli("training", "train", "--toy", "--device", "xla", "--output", "run").wait()
    assert code == 1
    assert "torch_xla is not installed" in err
    assert "medvllm[xla]" in err
