"""GGUF files: written here as llama.cpp's converter lays them out, read back into the same model; and damaged ones."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType as Kind

from medvllm.errors import MedvllmError
from medvllm.models.configuration import load_config
from medvllm.models.files import resolve_model
from medvllm.models.gguf import GGUFFile
from medvllm.models.gguf_model import GGUF_ARCHITECTURES, _checkpoint_name

PROMPT = [1, 17, 5, 80, 33, 96, 2, 41, 8, 8, 60, 29]
GGUF_OF = {"llama": "llama", "llama-biased": "llama", "llama-linear": "llama", "mistral": "llama"}
GGUF_OF |= {name: name for name in ("qwen2", "qwen3", "gemma3", "gpt2")} | {"llama-llama3": "llama"}


def stored(tensor: torch.Tensor, name: str, architecture: str, config: Any) -> np.ndarray:
    """A checkpoint's tensor in llama.cpp's layout."""
    if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        halves = tensor.view(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        tensor = halves.transpose(1, 2).reshape(tensor.shape)
    if architecture == "gemma3" and name.endswith("norm.weight"):
        tensor = tensor + 1
    if architecture == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        tensor = tensor.t()
    return tensor.contiguous().numpy()


def stored_name(name: str, architecture: str, layers: int) -> str:
    """The GGUF name of a checkpoint's tensor: the inverse of what the reader does."""
    parts = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "attn_q_norm", "attn_k_norm"]
    parts += ["ffn_norm", "ffn_gate", "ffn_up", "ffn_down", "post_attention_norm", "post_ffw_norm"]
    names = [f"blk.{layer}.{part}.{kind}" for layer in range(layers) for part in parts for kind in ("weight", "bias")]
    tops = ("token_embd", "position_embd", "output_norm", "output")
    names += [f"{top}.{kind}" for top in tops for kind in ("weight", "bias")]
    found = [each for each in names if _checkpoint_name(each, architecture) == name]
    assert len(found) == 1, name
    return found[0]


def write(
    path: Path, model: Any, architecture: str, *, kind: Kind = Kind.F32, extra: dict[str, np.ndarray] | None = None
) -> Path:
    """Writes a transformers model as a GGUF file, its matrices as `kind`, and `extra` tensors."""
    config, writer = model.config, gguf.GGUFWriter(path, architecture)
    gpt2 = architecture == "gpt2"
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(4 * config.n_embd if gpt2 else config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    if gpt2:
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_key_length(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        rope = config.rope_parameters.get("full_attention", config.rope_parameters)
        writer.add_rope_freq_base(rope["rope_theta"])
        if rope["rope_type"] == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope["factor"])
    if architecture == "gemma3":
        writer.add_sliding_window(config.sliding_window)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([f"w{number}" for number in range(config.vocab_size)])
    writer.add_token_merges([])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = stored(tensor, name, architecture, config)
        target = stored_name(name, architecture, config.num_hidden_layers)
        if kind is Kind.F32 or values.ndim < 2:
            writer.add_tensor(target, values)
        else:
            writer.add_tensor(target, gguf.quantize(values, kind), raw_dtype=kind)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", [name for name in GGUF_OF if name not in ("mistral", "llama-llama3")])
def test_a_gguf_file_is_the_model_it_was_made_from(
    name: str,
    tiny: Callable[..., Any],
    ours: Callable[..., Any],
    logits_of: Callable[..., torch.Tensor],
    tmp_path: Path,
) -> None:
    model = tiny(name, query_pre_attn_scalar=12) if name == "gemma3" else tiny(name)
    path = write(tmp_path / "model.gguf", model.reference, GGUF_OF[name])
    torch.testing.assert_close(logits_of(ours(path), PROMPT), model.logits(PROMPT), rtol=1e-4, atol=1e-4)
    assert resolve_model(tmp_path).weights == (path,)  # the folder of one GGUF file is it


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0])
def test_every_kind_of_block_is_decoded_as_the_gguf_package_does(
    kind: Kind, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny("llama", hidden_size=96, intermediate_size=64)
    file = GGUFFile(write(tmp_path / "model.gguf", model.reference, "llama", kind=kind))
    for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors:
        expected = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
        assert torch.equal(file.read(tensor.name), expected.view(file.tensors[tensor.name].shape)), tensor.name
        assert file.read(tensor.name, torch.bfloat16).dtype == torch.bfloat16


def test_blocks_of_256_are_decoded_as_the_gguf_package_does(tmp_path: Path) -> None:
    draw, writer = np.random.default_rng(3), gguf.GGUFWriter(tmp_path / "k.gguf", "llama")
    for kind, size in ((Kind.Q4_K, 144), (Kind.Q5_K, 176), (Kind.Q6_K, 210)):
        raw = draw.integers(0, 256, (3, 2 * size), dtype=np.uint8)
        raw.reshape(-1, size)[:, -2:] = [0, 40]  # a finite scale where it is at the end
        raw.reshape(-1, size)[:, :4] = [0, 40, 0, 36]  # and where it is at the beginning
        writer.add_tensor(kind.name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUFFile(tmp_path / "k.gguf")
    for tensor in gguf.GGUFReader(tmp_path / "k.gguf").tensors:
        assert torch.equal(file.read(tensor.name), torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type)))


def test_llama3_scaling_is_read_from_its_factors(tiny: Callable[..., Any], tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 8192, "rope_theta": 500000.0}
    model = tiny("llama", head_dim=64, rope_parameters=scaling)
    inverse = model.reference.model.rotary_emb.inv_freq
    plain = 1.0 / 500000.0 ** (torch.arange(0, 64, 2) / 64)
    path = write(
        tmp_path / "model.gguf", model.reference, "llama", extra={"rope_freqs.weight": (plain / inverse).numpy()}
    )
    config = load_config(resolve_model(path))
    assert {key: config.rope_parameters[key] for key in scaling} == scaling


@pytest.fixture
def file(tiny: Callable[..., Any], tmp_path: Path) -> Path:
    """A GGUF file of a tiny Llama."""
    return write(tmp_path / "tiny.gguf", tiny("llama").reference, "llama")


def test_every_truncation_and_many_damages_are_refused_in_one_line(file: Path, ours: Callable[..., Any]) -> None:
    whole = file.read_bytes()
    start = GGUFFile(file).tensors["token_embd.weight"].start
    draw = np.random.default_rng(11)
    cuts = [0, 3, 4, 8, 23, 24, 100, start // 2, start - 1, start, len(whole) - 33]
    for cut in cuts:
        file.write_bytes(whole[:cut])
        with pytest.raises(MedvllmError) as raised:
            ours(file)
        assert "\n" not in str(raised.value)
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        for place in draw.integers(0, start, 3):
            damaged[place] = draw.integers(0, 256)
        file.write_bytes(damaged)
        try:
            ours(file)
        except MedvllmError:
            refused += 1
    assert refused > 50  # the rest changed a token's text or another value that could be so


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, b"GGML", "begins with b'GGML'"),
        (4, struct.pack("<I", 1), "of version 1"),
        (4, struct.pack(">I", 3), "big-endian"),
        (8, struct.pack("<Q", 2**60), "announces 1,152,921,504,606,846,976 tensors"),
        (16, struct.pack("<Q", 2**60), "metadata entries"),
    ],
)
def test_a_wrong_head(file: Path, place: int, value: bytes, message: str) -> None:
    data = bytearray(file.read_bytes())
    data[place : place + len(value)] = value
    file.write_bytes(data)
    with pytest.raises(MedvllmError, match=message):
        GGUFFile(file)


def test_an_architecture_nobody_reads(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "clip")
    writer.add_tensor("a", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(MedvllmError, match="neither the engine nor transformers reads GGUF files of 'clip'"):
        load_config(resolve_model(tmp_path / "x.gguf"))


def test_a_part_of_a_split_file_that_is_missing(file: Path) -> None:
    first = file.rename(file.with_name("tiny-00001-of-00002.gguf"))
    with pytest.raises(MedvllmError, match=r"split in 2 parts and tiny-00002-of-00002.gguf not beside it"):
        load_config(resolve_model(first))


def test_split_files_are_read_as_one(
    file: Path, ours: Callable[..., Any], logits_of: Callable[..., torch.Tensor]
) -> None:
    expected = logits_of(ours(file), PROMPT)
    reader = gguf.GGUFReader(file)
    whole = GGUFFile(file)
    folder = file.parent / "split"
    folder.mkdir()
    for number, chosen in enumerate((reader.tensors[:9], reader.tensors[9:]), start=1):
        writer = gguf.GGUFWriter(folder / f"m-{number:05d}-of-00002.gguf", "llama")
        if number == 1:
            for key, value in whole.metadata.items():
                if key.startswith("llama.") and isinstance(value, int):
                    writer.add_uint32(key, value)
                elif key.startswith("llama."):
                    writer.add_float32(key, value)
        for tensor in chosen:
            writer.add_tensor(tensor.name, np.array(tensor.data))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    assert torch.equal(logits_of(ours(folder), PROMPT), expected)
    with pytest.raises(MedvllmError, match=r"no tensor 'token_embd.weight'|expected a positive whole number"):
        ours(folder / "m-00002-of-00002.gguf")


def test_the_table_of_architectures_names_known_ones() -> None:
    from medvllm.models import ARCHITECTURES

    assert {name for name, _ in GGUF_ARCHITECTURES.values()} <= set(ARCHITECTURES)
