"""benchmark_engine.py on a tiny model: a whole report, ratios pair by pair, what it skips, and its errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "benchmark_engine.py"
SMALL = ("--requests=3", "--new_tokens=3", "--single_tokens=8", "--pairs=1", "--threads=1")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(BENCHMARK), *arguments], capture_output=True, text=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of single bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    pieces = ["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(pieces),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            bos_token_id=None,
            eos_token_id=0,
        )
    ).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_report(model: Path, tmp_path: Path) -> None:
    """Four processes load, so this takes half a minute."""
    output = tmp_path / "report.json"
    arguments = ("--dtype=float32", "--quality", "--quality_tokens=64", f"--output={output}")
    done = run(f"--model={model}", *SMALL, *arguments)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert json.loads(output.read_text()) == report
    assert report["vllm"] == "skipped: no --peer vllm=/path/to/python"
    assert report["llamacpp"].startswith("skipped: ")
    assert report["read_bandwidth_gb_per_s"]["max"] > 0.1
    names = ["medvllm float32", "medvllm int8", "medvllm int4", "transformers static float32"]
    assert list(report["configurations"]) == names
    for name, figures in report["configurations"].items():
        assert figures["batch"]["tokens"] == 9, name
        assert figures["single"]["tokens"] == 3, name
        assert figures["single"]["ttft_ms"]["median"] > 0
        assert figures["single"]["peak_rss_mib"] > 10
        assert figures["single"]["bandwidth_floor_ms"] > 0
    assert {(ratio["of"], ratio["to"]) for ratio in report["single_ratios"]} == {(us, names[3]) for us in names[:3]}
    assert report["batch_ratios"][0]["wall_s"]["verdict"] == "none: 1 pairs, 5 needed"
    quality = report["quality"]
    assert quality[names[0]] == {
        "perplexity": quality[names[0]]["perplexity"],
        "perplexity_ratio": 1.0,
        "agreement_with_medvllm_float32": 1.0,
    }
    assert 0.5 < quality["medvllm int8"]["agreement_with_medvllm_float32"] <= 1


def test_the_workload_is_the_stated_one() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(BENCHMARK.parent)!r}); from _engine_workload import lengths;"
        "found = lengths(32); print(sum(found), min(found), max(found), found != sorted(found))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["6705", "20", "400", "True"]


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (("--pairs=0",), "pairs", 2),
        (("--nonsense",), "nonsense", 2),
        (("--dtype=int3",), "dtype", 2),
        (("--model=/no/such",), "/no/such", 1),
    ],
)
def test_errors_are_one_line(arguments: tuple[str, ...], words: str, status: int) -> None:
    done = run(*arguments)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--peer=vllm",), "NAME=/path/to/python"),
        pytest.param(("--peer=other=/bin/python",), "transformers, vllm, llamacpp", marks=pytest.mark.slow),
        (("--peer=vllm=/no/such/python",), "no such program"),
        pytest.param(("--providers=medvllm,magic",), "magic", marks=pytest.mark.slow),
        (("--workloads=all",), "batch, single"),
    ],
)
def test_what_can_not_be_is_said_before_anything_loads(model: Path, arguments: tuple[str, ...], words: str) -> None:
    done = run(f"--model={model}", *arguments)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
