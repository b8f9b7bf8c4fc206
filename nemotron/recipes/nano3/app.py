"""The commands of nano3. Classes and handlers are named, so that listing the commands imports none of them."""

from __future__ import annotations

from pathlib import Path

from nemotron.kit import App, ArtifactInput

__all__ = ["app"]

_HERE = Path(__file__).parent
_NAME = "nemotron.recipes.nano3"
_DATA = ArtifactInput(default_name="PretrainBlendsArtifact-default:latest", mappings={"path": "data_path"})

app = App("nano3", description="From text files to a chat model, on a CPU or larger by configuration")

_prep = app.group("data", description="Data").group("prep", description="Data preparation")
_prep.command(
    "pretrain",
    f"{_NAME}.stage0_pretrain.data_prep.prepare:DataPrepConfig",
    f"{_NAME}.stage0_pretrain.data_prep.prepare:main",
    script_path=_HERE / "stage0_pretrain" / "data_prep" / "prepare.py",
    description="Text files to a tokenizer, Megatron shards and blend.json",
)
_prep.command(
    "sft",
    f"{_NAME}.stage1_sft.data_prep.prepare:SFTConfig",
    f"{_NAME}.stage1_sft.data_prep.prepare:main",
    script_path=_HERE / "stage1_sft" / "data_prep" / "prepare.py",
    description="Conversations to packed samples with a loss mask",
    artifacts={"model": ArtifactInput("ModelArtifact-pretrain:latest", {"path": "tokenizer_path"})},
)
_prep.command(
    "rl",
    f"{_NAME}.stage2_rl.data_prep.prepare:RLConfig",
    f"{_NAME}.stage2_rl.data_prep.prepare:main",
    script_path=_HERE / "stage2_rl" / "data_prep" / "prepare.py",
    description="Prompts whose answers can be checked",
)
for _command in ("pretrain", "train"):
    app.command(
        _command,
        f"{_NAME}.stage0_pretrain.train:PretrainConfig",
        f"{_NAME}.stage0_pretrain.train:main",
        script_path=_HERE / "stage0_pretrain" / "train.py",
        description="Pretrain a Llama on the shards" + (" (the same as pretrain)" if _command == "train" else ""),
        artifacts={"data": _DATA},
    )
app.command(
    "sft",
    f"{_NAME}.stage1_sft.train:SFTTrainConfig",
    f"{_NAME}.stage1_sft.train:main",
    script_path=_HERE / "stage1_sft" / "train.py",
    description="Fine-tune a pretrained model on conversations",
    artifacts={
        "model": ArtifactInput("ModelArtifact-pretrain:latest", {"path": "model_path"}),
        "data": ArtifactInput(None, {"path": "data_path"}),
    },
)
app.command(
    "eval",
    f"{_NAME}.stage3_eval.evaluate:EvalConfig",
    f"{_NAME}.stage3_eval.evaluate:main",
    script_path=_HERE / "stage3_eval" / "evaluate.py",
    description="Loss on held-out text beside its unigram entropy",
    artifacts={"model": ArtifactInput("ModelArtifact-sft:latest", {"path": "model_path"}), "data": _DATA},
)
