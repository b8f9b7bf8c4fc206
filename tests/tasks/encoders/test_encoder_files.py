"""What names a model, and what is refused before anything of it is read or run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from medvllm.errors import MedvllmError
from medvllm.registry import ModelRegistry
from medvllm.tasks.classification import TextClassifier
from medvllm.tasks.encoder_files import find_encoder
from medvllm.tasks.model_ner import TokenClassifier

Made = Callable[..., Path]


@pytest.fixture
def folder(made: Made, tmp_path: Path) -> Path:
    """A copy of a model's folder, to be broken."""
    shutil.copytree(made("bert"), tmp_path / "model")
    return tmp_path / "model"


def _edit(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_a_registered_name_is_its_folder(folder: Path) -> None:
    ModelRegistry().register("my-ner", str(folder), type="token-classification")
    assert find_encoder("my-ner").folder == folder
    shutil.rmtree(folder)
    with pytest.raises(MedvllmError, match=r"'my-ner' is registered as .*no longer there; register it again"):
        find_encoder("my-ner")


def test_a_model_that_is_not_here_says_which_files_were_looked_for() -> None:
    with pytest.raises(MedvllmError) as found:
        find_encoder("biobert-base-cased-v1.2")
    message = str(found.value)
    assert "'biobert-base-cased-v1.2' (dmis-lab/biobert-base-cased-v1.2 on the hub)" in message
    assert "config.json, model.safetensors, tokenizer.json" in message
    assert "models--dmis-lab--biobert-base-cased-v1.2" in message
    assert "hf download dmis-lab/biobert-base-cased-v1.2" in message
    with pytest.raises(MedvllmError, match=r"there is no folder './nothing'"):
        find_encoder("./nothing")
    with pytest.raises(MedvllmError, match=r"there is no folder 'a.x00b'"):
        find_encoder("a\0b")


def test_a_model_of_another_task_is_refused(made: Made) -> None:
    with pytest.raises(
        MedvllmError, match=r"no head for classification: .*…ForSequenceClassification.*got BertForToken"
    ):
        TextClassifier(str(made("bert")))
    with pytest.raises(MedvllmError, match=r"no head for ner: .*--entrypoint medvllm.training.recipes:ner"):
        TokenClassifier(str(made("bert", task="SequenceClassification")))


def test_pickled_weights_only_where_allowed(made: Made, folder: Path) -> None:
    from safetensors.torch import load_file

    wanted = TokenClassifier(str(folder)).spans(["Patient with stroke."])
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(MedvllmError, match=r"pickle file \(pytorch_model.bin\), which can run code.*--allow-pickle"):
        TokenClassifier(str(folder))
    assert TokenClassifier(str(folder), allow_pickle=True).spans(["Patient with stroke."]) == wanted
    for shard in ("pytorch_model.bin", "../other.safetensors"):  # an index that names them
        index = {"weight_map": dict.fromkeys(load_file(made("bert") / "model.safetensors"), shard)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(MedvllmError, match=r"must name files such as .*safetensors, got '" + shard):
            find_encoder(str(folder))


def test_code_of_a_model_only_where_trusted(folder: Path) -> None:
    _edit(folder, model_type="mine", auto_map={"AutoModelForTokenClassification": "mine.Mine"})
    (folder / "mine.py").write_text("raise SystemExit('ran')")
    with pytest.raises(MedvllmError, match=r"Python code of its own, .*refused; .*--trust-remote-code"):
        find_encoder(str(folder))
    _edit(folder, model_type="mine", auto_map=None)
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(MedvllmError, match="model_type 'mine', which transformers does not know"):
        find_encoder(str(folder))


def test_an_adapter_is_no_model(folder: Path) -> None:
    """Where peft is installed transformers would read the weights of the model that the adapter names."""
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    with pytest.raises(MedvllmError, match=r"holds an adapter of another model; merge it"):
        find_encoder(str(folder))


def test_broken_files_are_named(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(MedvllmError, match=r"can't load model .*broken.*get it again"):
        TokenClassifier(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(MedvllmError, match=r"there are no weights in .*expected model.safetensors"):
        TokenClassifier(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(MedvllmError, match=r"config.json is not JSON at line 1"):
        TokenClassifier(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(MedvllmError, match=r"there is no config.json in"):
        TokenClassifier(str(folder))
    with pytest.raises(MedvllmError, match="is a file; name the model's folder"):
        find_encoder(str(folder / "tokenizer.json"))


def test_weights_without_the_head_are_refused_and_not_made_up(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: value for name, value in tensors.items() if "classifier" not in name}, folder / "model.safetensors"
    )
    with pytest.raises(MedvllmError, match=r"the weights of .* lack classifier.bias, classifier.weight"):
        TokenClassifier(str(folder))
    _edit(folder, id2label={"0": "O", "1": "B-Disease", "2": "I-Disease"})
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(MedvllmError, match=r"do not fit config.json at classifier.bias, classifier.weight"):
        TokenClassifier(str(folder))
    _edit(folder, id2label={"0": "O", "1": "B-Disease", "2": "I-Disease", "3": "B-Drug", "9": "I-Drug"})
    with pytest.raises(MedvllmError, match=r"id2label in .* must number the labels from 0"):
        TokenClassifier(str(folder))


def test_weights_that_give_no_number_are_told(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(MedvllmError, match="gives what is no number"):
        TokenClassifier(str(folder)).spans(["Patient with stroke."])


def test_a_tokenizer_of_another_model_is_told(made: Made, folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(MedvllmError, match="there is no tokenizer in"):
        TokenClassifier(str(folder))
    shutil.copy(made("roberta") / "tokenizer.json", folder / "tokenizer.json")
    with pytest.raises(MedvllmError, match=r"has 36. tokens, its model 160; they are not of one model"):
        TokenClassifier(str(folder))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(MedvllmError, match="can't read the tokenizer"):
        TokenClassifier(str(folder))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "float16 is for a GPU"),
        ({"dtype": "fp8"}, "--dtype must be one of auto, float32"),
        ({"aggregation": "last"}, "--aggregation must be one of first"),
        ({"device": "tpu"}, "--device must be one of auto"),
    ],
)
def test_options_that_do_not_fit(made: Made, options: dict[str, str], message: str) -> None:
    with pytest.raises(MedvllmError, match=message):
        TokenClassifier(str(made("bert")), device=options.pop("device", "cpu"), **options)
