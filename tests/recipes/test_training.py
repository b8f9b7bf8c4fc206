"""Pretraining, SFT and evaluation with a model of seconds."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nemotron.kit import ArtifactRegistry, KitError, ModelArtifact, PretrainBlendsArtifact
from nemotron.recipes.nano3.model.llama import Llama, LlamaConfig, load_model, save_model
from nemotron.recipes.nano3.model.progress import Progress
from nemotron.recipes.nano3.model.settings import (
    CheckpointSettings,
    MachineSettings,
    ModelSettings,
    OptimizerSettings,
    SchedulerSettings,
    TrainSettings,
)
from nemotron.recipes.nano3.model.training import learning_rate
from nemotron.recipes.nano3.stage0_pretrain.data_prep.prepare import DataPrepConfig, prepare
from nemotron.recipes.nano3.stage0_pretrain.train import PretrainConfig
from nemotron.recipes.nano3.stage0_pretrain.train import main as pretrain
from nemotron.recipes.nano3.stage1_sft.train import SFTTrainConfig
from nemotron.recipes.nano3.stage1_sft.train import main as sft
from nemotron.recipes.nano3.stage3_eval.evaluate import EvalConfig
from nemotron.recipes.nano3.stage3_eval.evaluate import main as evaluate

SHAPE = ModelSettings(2, 32, 64, 4, 2, seq_length=32)
ONE = MachineSettings(device="cpu", threads=1)
MODULE = "nemotron.recipes.nano3.stage0_pretrain.train"


@pytest.fixture
def data(corpus: Path, tmp_path: Path) -> PretrainBlendsArtifact:
    settings = DataPrepConfig(
        tmp_path / "data", blend_path=corpus, vocab_size=320, num_shards=2, valid_fraction=0.1, test_fraction=0.1
    )
    artifact = prepare(settings)
    artifact.save("PretrainBlendsArtifact-default", copy=False)
    return artifact


def config(data: PretrainBlendsArtifact, output: Path, **more: object) -> PretrainConfig:
    made = PretrainConfig(
        data.path,
        output,
        model=SHAPE,
        train=TrainSettings(60, 8, 4, eval_interval=0, eval_iters=2),
        optimizer=OptimizerSettings(lr=1e-2, min_lr=1e-3),
        scheduler=SchedulerSettings(5),
        checkpoint=CheckpointSettings(20),
        machine=ONE,
    )
    return dataclasses.replace(made, **more)  # type: ignore[arg-type]


def trained(cfg: PretrainConfig) -> ModelArtifact:
    artifact = pretrain(cfg)
    assert artifact is not None
    return artifact


def test_transformers_computes_the_same(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    for tied in (True, False):
        shape = LlamaConfig(97, 48, 80, 3, 6, 2, 64, rope_theta=500.0, tie_word_embeddings=tied)
        model = Llama(shape, init_std=0.2).eval()
        save_model(model, tmp_path, eos_token_ids=[0], pad_token_id=0)
        tokens = torch.randint(0, 97, (2, 40))
        with torch.inference_mode():
            theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()(tokens).logits
            torch.testing.assert_close(model(tokens), theirs, atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(load_model(tmp_path)(tokens), model(tokens), atol=0, rtol=0)


def test_a_model_learns_its_text_and_says_so(data: PretrainBlendsArtifact, tmp_path: Path) -> None:
    model = trained(config(data, tmp_path / "out"))
    assert (model.step, model.name, model.version) == (60, "ModelArtifact-pretrain", 1)
    settings = EvalConfig(model.path, data.path, tmp_path / "eval", min_margin=0.5, machine=ONE)
    result = evaluate(settings)
    assert result is not None
    assert result.heldout_loss < result.unigram_entropy - 0.5
    assert json.loads((tmp_path / "eval" / "results.json").read_text())["tokens"] == result.tokens
    with pytest.raises(KitError, match="must be at least 9 nats under"):
        evaluate(dataclasses.replace(settings, min_margin=9.0))
    with pytest.raises(KitError, match="no model in"):
        evaluate(dataclasses.replace(settings, model_path=tmp_path))


def test_an_untrained_model_is_no_better_than_chance(data: PretrainBlendsArtifact, tmp_path: Path) -> None:
    model = trained(config(data, tmp_path / "out", train=TrainSettings(0, 8, 4, eval_iters=1)))
    result = evaluate(EvalConfig(model.path, data.path, tmp_path / "eval", machine=ONE))
    assert result is not None
    assert result.margin < 0


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def test_micro_batches_do_not_change_the_result(data: PretrainBlendsArtifact, tmp_path: Path) -> None:
    results = []
    for size in (2, 8):
        settings = TrainSettings(6, 8, size, eval_iters=1)
        trained(config(data, tmp_path / f"{size}", train=settings))
        results.append(load_model(tmp_path / f"{size}" / "model").state_dict())
    for name, weight in results[0].items():
        torch.testing.assert_close(weight, results[1][name], atol=2e-3, rtol=2e-2)


def test_batch_sizes_must_divide(data: PretrainBlendsArtifact, tmp_path: Path) -> None:
    with pytest.raises(KitError, match="multiple of micro_batch_size x ranks = 3 x 1, got 8"):
        pretrain(config(data, tmp_path / "out", train=TrainSettings(5, 8, 3)))


def test_a_checkpoint_of_something_else_is_refused(data: PretrainBlendsArtifact, tmp_path: Path) -> None:
    first = TrainSettings(2, 8, 4, eval_iters=1)
    trained(config(data, tmp_path / "out", train=first))
    before = weights(tmp_path / "out")
    with pytest.raises(KitError, match=r"was made with model .*force=true"):
        pretrain(config(data, tmp_path / "out", model=dataclasses.replace(SHAPE, num_layers=1)))
    with pytest.raises(KitError, match="was made with seed 1234, now it is 1"):
        pretrain(config(data, tmp_path / "out", seed=1))
    trained(config(data, tmp_path / "out", train=first))  # nothing is left to do
    assert weights(tmp_path / "out") == before
    trained(config(data, tmp_path / "out", train=first, seed=1, force=True))
    assert weights(tmp_path / "out") != before


def test_old_checkpoints_are_removed(data: PretrainBlendsArtifact, tmp_path: Path) -> None:
    settings = CheckpointSettings(1, keep=2)
    trained(config(data, tmp_path / "out", train=TrainSettings(5, 8, 4, eval_iters=1), checkpoint=settings))
    found = sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir())
    assert found == ["iter_0000004", "iter_0000005", "latest_checkpointed_iteration.txt"]


def test_a_loss_that_is_no_number_stops_training(data: PretrainBlendsArtifact, tmp_path: Path) -> None:
    settings = OptimizerSettings(lr=1e30, min_lr=1e30, clip_grad=1e30)
    with pytest.raises(KitError, match=r"the loss is (nan|inf) at iteration .*lower optimizer\.lr"):
        pretrain(config(data, tmp_path / "out", optimizer=settings, scheduler=SchedulerSettings(0)))


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for child in map(int, children) for each in (child, *descendants(child))]


def run_killed_and_whole(start: Callable[[Path], subprocess.Popen[str]], tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(killed)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (killed / "checkpoints" / "iter_0000030").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    for pid in [process.pid, *descendants(process.pid)]:  # torchrun's ranks are in sessions of their own
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert not (killed / "model").exists(), "the kill came too late to say anything"
    for folder in (killed, whole):
        process = start(folder)
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        if folder == killed:
            assert "pretrain 10/" not in err  # it went on, it did not start anew
    assert weights(killed) == weights(whole)


def overrides(data: PretrainBlendsArtifact, folder: Path) -> list[str]:
    values = {f"model.{each.name}": getattr(SHAPE, each.name) for each in dataclasses.fields(SHAPE)}
    values |= {"model.hidden_dropout": 0.1, "train.train_iters": 200, "train.global_batch_size": 4}
    values |= {
        "train.micro_batch_size": 2,
        "train.eval_interval": 0,
        "train.eval_iters": 1,
        "checkpoint.save_interval": 10,
    }
    values |= {"machine.precision": "fp32", "machine.threads": 1, "data_path": data.path, "output_dir": folder}
    values["model.share_embeddings_and_output_weights"] = "true"
    return [f"{key}={value}" for key, value in values.items()]


def test_killed_it_goes_on_to_the_same_weights(
    data: PretrainBlendsArtifact, tmp_path: Path, stage: Callable[..., subprocess.Popen[str]]
) -> None:
    run_killed_and_whole(lambda folder: stage("pretrain", *overrides(data, folder)), tmp_path)
    producer = ArtifactRegistry().show("ModelArtifact-pretrain")["producer"]
    assert producer["command"] == "nano3 pretrain"


@pytest.mark.slow
def test_two_ranks_killed_go_on_to_the_same_weights(
    data: PretrainBlendsArtifact, tmp_path: Path, stage: Callable[..., subprocess.Popen[str]]
) -> None:
    run_killed_and_whole(lambda folder: stage(*overrides(data, folder), torchrun=MODULE), tmp_path)
    assert len(ArtifactRegistry().versions("ModelArtifact-pretrain")) == 2  # rank 0 alone publishes


def test_sft_learns_answers_only(
    data: PretrainBlendsArtifact, corpus: Path, tmp_path: Path, stage: Callable[..., subprocess.Popen[str]]
) -> None:
    base = trained(config(data, tmp_path / "out", model=dataclasses.replace(SHAPE, seq_length=160)))
    from nemotron.recipes.nano3.stage1_sft.data_prep.prepare import SFTConfig
    from nemotron.recipes.nano3.stage1_sft.data_prep.prepare import prepare as prepare_sft

    chats = prepare_sft(
        SFTConfig(base.path, tmp_path / "chats", blend_path=corpus, seq_length=160, valid_fraction=0.2, test_fraction=0)
    )
    settings = SFTTrainConfig(
        base.path,
        tmp_path / "sft",
        data_path=chats.path,
        train=TrainSettings(30, 4, 4, eval_interval=0, eval_iters=1),
        optimizer=OptimizerSettings(lr=5e-3, min_lr=5e-4),
        scheduler=SchedulerSettings(2),
        machine=ONE,
    )
    untrained = sft(
        dataclasses.replace(settings, train=TrainSettings(0, 4, 4, eval_iters=1), output_dir=tmp_path / "s0")
    )
    model = sft(settings)
    assert model is not None
    assert untrained is not None
    assert model.loss < untrained.loss - 0.5  # type: ignore[operator]
    assert (model.name, model.metadata["stage"]) == ("ModelArtifact-sft", "sft")
    described = json.loads((model.path / "tokenizer_config.json").read_text())
    assert "<|im_start|>" in described["chat_template"]
    assert "chat_template" not in json.loads((base.path / "tokenizer_config.json").read_text())
    assert json.loads((model.path / "generation_config.json").read_text())["eos_token_id"] == [2, 0]


@pytest.mark.parametrize(("style", "middle"), [("cosine", 0.55), ("linear", 0.55), ("constant", 1.0)])
def test_the_learning_rate(style: str, middle: float) -> None:
    optimizer, scheduler = OptimizerSettings(lr=1.0, min_lr=0.1), SchedulerSettings(10, style)  # type: ignore[arg-type]
    rates = [learning_rate(at, total=111, optimizer=optimizer, scheduler=scheduler) for at in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(middle, abs=0.01)
    assert rates[-1] == pytest.approx(1.0 if style == "constant" else 0.1, abs=0.01)


def test_progress_is_lines_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("step", total=4, every=2) as bar:
        for done in range(1, 5):
            bar.update(done, loss=1.5, valid=None)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("step 2/4  ETA 0:00  loss 1.5")
