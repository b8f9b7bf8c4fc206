"""What is exported computes what PyTorch computes, on batches of other sizes and lengths too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

onnxruntime = pytest.importorskip("onnxruntime")
ENTRYPOINT = Path(__file__).parent / "tiny_entrypoint.py"


def test_a_run_as_onnx_and_torchscript(fork: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForTokenClassification

    run = tmp_path / "run"
    assert fork.train(run, "--max-steps", "4").wait()[0] == 0
    code, out, err = fork.cli("training", "export", str(run), "--format", "onnx,torchscript").wait()
    assert code == 0, err
    assert [line.split(": differs from PyTorch by ")[0] for line in out.splitlines()] == [
        str(run / "model.onnx"),
        str(run / "model.torchscript.pt"),
    ]
    model = AutoModelForTokenClassification.from_pretrained(run, local_files_only=True).eval()
    session = onnxruntime.InferenceSession(str(run / "model.onnx"), providers=["CPUExecutionProvider"])
    script = torch.jit.load(run / "model.torchscript.pt")
    for shape in ((1, 3), (5, 30)):
        ids = torch.randint(5, 99, shape)
        mask = torch.ones_like(ids)
        mask[:, -1] = 0
        with torch.no_grad():
            expected = model(input_ids=ids, attention_mask=mask).logits
        (logits,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        numpy.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)
        torch.testing.assert_close(script(ids, mask), expected, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_the_toy_is_exported_when_trained_and_later(fork: Any, tmp_path: Path) -> None:
    run = tmp_path / "toy"
    given = ("--toy", "--epochs", "1", "--output", str(run), "--export", "onnx,torchscript")
    code, _, err = fork.cli("training", "train", *given).wait()
    assert code == 0, err
    code, _, err = fork.cli(
        "training", "export", str(run), "--format", "onnx", "--output", str(tmp_path / "later")
    ).wait()
    assert code == 0, err
    assert (tmp_path / "later" / "model.onnx").exists()
    from medvllm.training.toy import TwoSpirals

    points = TwoSpirals(64, seed=3)
    session = onnxruntime.InferenceSession(str(run / "model.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"x": points.points.numpy()})
    assert (logits.argmax(1) == points.arms.numpy()).mean() > 0.8


def test_the_code_that_a_folder_names_runs_only_where_it_is_trusted(fork: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    given = ("--entrypoint", f"{ENTRYPOINT}:greedy", "--epochs", "1", "--no-plot", "--output", str(run))
    code, _, err = fork.cli("training", "train", *given).wait()
    assert code == 0, err
    assert json.loads((run / "trainer.json").read_text())["config"] == {}  # as given, whatever became of it
    export = ("training", "export", str(run), "--format", "torchscript")
    code, _, err = fork.cli(*export).wait()
    assert code == 1
    assert f"names the entry point {ENTRYPOINT}:greedy, Python code that would run" in err
    assert not (run / "model.torchscript.pt").exists()
    code, out, err = fork.cli(*export, "--trust-remote-code").wait()
    assert code == 0, err
    assert "model.torchscript.pt: differs from PyTorch by" in out


def test_a_model_that_can_not_be_exported_is_refused(fork: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = fork.cli("training", "export", str(tmp_path / "empty")).wait()
    assert code == 1
    assert "neither config.json nor trainer.json" in err
    code, _, err = fork.cli("training", "export", str(tmp_path / "empty"), "--format", "tflite").wait()
    assert code == 1
    (tmp_path / "odd").mkdir()
    for name in ("Strange", "pipeline"):
        (tmp_path / "odd" / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": [name]}))
        code, _, err = fork.cli("training", "export", str(tmp_path / "odd")).wait()
        assert code == 1
        assert f"transformers has no model ['{name}']" in err
    assert fork.cli("training", "export", str(tmp_path / "odd"), "--format", ",").wait()[0] == 2
