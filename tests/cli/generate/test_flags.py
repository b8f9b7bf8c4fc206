"""Each flag does what it says, and the metadata shows it as measured."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from medvllm.tasks.generation.options import DISCLAIMER
from medvllm.tasks.generation.styles import STYLES

SAMPLED = ("--strategy", "sampling", "--seed", "3", "--temperature", "1")


def test_text_then_metadata(generate: Any) -> None:
    done = generate("--max-length", "9", "--json-meta")
    assert done.code == 0, done.stderr
    meta = done.meta
    assert {"strategy", "temperature", "constraints_report"} <= meta.keys()
    assert meta["strategy"] == "greedy"
    assert meta["temperature"] == 0.0
    assert meta["output_tokens"] == 9
    assert meta["prompt"]["tokens"] > 4
    assert meta["prompt"]["template"] == "chat"
    assert meta["ttft_ms"] > 0
    assert meta["tokens_per_s"] > 0
    assert meta["memory"]["peak_bytes"] > meta["memory"]["weight_bytes"] > 0
    assert meta["attention"]["requested"] == "auto"
    assert meta["attention"]["backend"] in ("flash", "sdpa", "manual")
    assert meta["attention"]["reason"]
    assert meta["device"] in ("cpu", "cuda")
    assert meta["finish_reason"] == "length"
    assert meta["constraints_report"]["truncation"]["truncated"] is True
    assert done.text.endswith(DISCLAIMER)
    assert meta["constraints_report"]["words"]["achieved"] == len(done.text.removesuffix(DISCLAIMER).split())
    assert "is not registered; skipping task validation" in done.stderr


def test_without_metadata_only_the_text_is_printed(generate: Any) -> None:
    done = generate("--max-length", "3", "--no-disclaimer")
    assert done.code == 0, done.stderr
    assert 0 < len(done.stdout.split()) <= 3
    assert done.stdout.endswith("\n")


def test_sampling_parameters_are_in_force(generate: Any) -> None:
    arguments = (*SAMPLED, "--top-p", "0.8", "--top-k", "7", "--min-p", "0.01", "--max-length", "12", "--json-meta")
    first, again = generate(*arguments), generate(*arguments)
    assert first.text == again.text, "the seed decides"
    meta = first.meta
    assert (meta["strategy"], meta["temperature"], meta["seed"]) == ("sampling", 1.0, 3)
    assert (meta["parameters"]["top_p"], meta["parameters"]["top_k"], meta["parameters"]["min_p"]) == (0.8, 7, 0.01)
    unseeded = ("--strategy", "sampling", "--temperature", "1", "--max-length", "12", "--json-meta")
    drawn = generate(*unseeded)
    assert generate(*unseeded).meta["seed"] != drawn.meta["seed"]
    assert generate(*unseeded, "--seed", str(drawn.meta["seed"])).text == drawn.text
    other = generate("--strategy", "sampling", "--seed", "4", "--temperature", "1", "--max-length", "12")
    assert other.stdout != first.text


def test_beam_search_and_several_texts(generate: Any) -> None:
    done = generate("--strategy", "beam", "--beam-width", "3", "-n", "2", "--max-length", "6", "--json-meta")
    assert done.code == 0, done.stderr
    meta = done.meta
    assert (meta["strategy"], meta["parameters"]["beam_width"], meta["parameters"]["n"]) == ("beam", 3, 2)
    assert "--- 1 of 2 ---" in done.text
    assert "--- 2 of 2 ---" in done.text
    assert len(meta["outputs"]) == 2


def test_ignored_parameters_are_warned_of(generate: Any) -> None:
    done = generate("--strategy", "greedy", "--temperature", "0.9", "--beam-width", "2", "--max-length", "2")
    assert "Warning: --temperature ignored: --strategy greedy" in done.stderr
    assert "Warning: --beam-width ignored: --strategy greedy" in done.stderr


def test_penalties_and_stop(generate: Any) -> None:
    plain = generate("--max-length", "40", "--no-disclaimer", "--repetition-penalty", "1").stdout.split()
    changed = generate("--max-length", "40", "--no-disclaimer", "--repetition-penalty", "2").stdout.split()
    assert len(set(changed)) > len(set(plain))
    long = generate(*SAMPLED, "--max-length", "60", "--no-disclaimer").stdout.strip()
    word = long.split()[6].strip(".!?,")
    done = generate(*SAMPLED, "--max-length", "60", "--no-disclaimer", "--stop", word, "--json-meta")
    assert word not in done.text
    assert long.startswith(done.text.strip())
    assert done.meta["finish_reason"] == "stop"


def test_target_words_ends_at_a_sentence_near_it(generate: Any) -> None:
    done = generate(*SAMPLED, "--target-words", "40", "--max-length", "200", "--json-meta", "--no-disclaimer")
    assert done.code == 0, done.stderr
    words = done.meta["constraints_report"]["words"]
    assert words["requested"] == 40
    assert words["achieved"] == len(done.text.split())
    assert abs(words["achieved"] - 40) < 20
    assert done.text.strip()[-1] in ".!?"
    assert done.meta["constraints_report"]["truncation"]["at"] in ("sentence", None)
    assert "about 40 words" in done.meta["prompt"]["instruction"]


def test_target_chars_is_a_hard_limit(generate: Any) -> None:
    for extra in ((), ("--no-disclaimer",)):
        done = generate(*SAMPLED, "--target-chars", "180", "--max-length", "120", "--json-meta", *extra)
        characters = done.meta["constraints_report"]["characters"]
        assert characters["achieved"] == len(done.text.rstrip("\n")) <= 180
        assert characters["met"] is True
        assert (DISCLAIMER in done.text) == (not extra)


@pytest.mark.parametrize("name", STYLES)
def test_styles_shape_the_prompt(generate: Any, name: str) -> None:
    value = STYLES[name][-1]
    done = generate(f"--{name}", value, "--max-length", "2", "--json-meta")
    assert done.meta["style"] == {name: value}
    assert done.meta["prompt"]["instruction"]
    assert done.meta["prompt"]["tokens"] > 8
    report = done.meta["constraints_report"]
    if name in ("readability", "structure"):
        assert report[name]["requested"] == value
        assert report[name]["met"] in (True, False)


def test_unsupported_mentions_are_reported(generate: Any) -> None:
    done = generate("--max-length", "100", *SAMPLED, "--json-meta", text="Walk more.")
    report = done.meta["factual_report"]
    assert report["checked"] is True
    found = {mention["text"].lower() for mention in report["unsupported"]}
    assert found
    assert all(mention in done.text.lower() for mention in found)


@pytest.mark.parametrize("impl", ["sdpa", "manual"])
def test_attention_backend_asked_for_is_used(generate: Any, impl: str) -> None:
    done = generate("--attention-impl", impl, "--max-length", "4", "--json-meta")
    assert done.meta["attention"]["requested"] == impl
    assert done.meta["attention"]["backend"] == impl


def test_flash_falls_back_with_a_warning(generate: Any) -> None:
    from medvllm.layers.attention import flash_unavailable

    if flash_unavailable() is None:
        pytest.skip("FlashAttention runs here")
    done = generate("--attention-impl", "flash", "--max-length", "2", "--json-meta")
    assert done.code == 0
    assert "Warning: FlashAttention was requested but is unavailable" in done.stderr
    assert done.stderr.count("FlashAttention was requested") == 1
    assert done.meta["attention"]["backend"] in ("sdpa", "manual")


def test_flash_with_no_flash_attention_conflicts(generate: Any) -> None:
    done = generate("--attention-impl", "flash", "--no-flash-attention", "--max-length", "2", "--json-meta")
    assert done.code == 0
    assert "Warning: --attention-impl flash conflicts with --no-flash-attention" in done.stderr
    assert done.meta["attention"]["backend"] != "flash"
    assert "--no-flash-attention" in done.meta["attention"]["reason"]


def test_memory_pool(generate: Any) -> None:
    done = generate("--memory-pooling", "--pool-device", "cpu", "--max-length", "5", "--device", "cpu", "--json-meta")
    pool = done.meta["pool"]
    assert pool["enabled"] is True
    assert pool["hit_rate"] > 0.5
    assert pool["reserved_bytes"] > 0
    capped = generate("--pool-max-bytes", "64", "--max-length", "5", "--json-meta").meta["pool"]
    assert capped["max_bytes"] == 64
    assert capped["reserved_bytes"] <= 64
    assert capped["misses"] > 0
    assert capped["fallback_bytes"] > 0


def test_a_pool_where_the_model_is_not_is_warned_of(generate: Any) -> None:
    done = generate("--pool-device", "cuda", "--device", "cpu", "--max-length", "2", "--json-meta")
    assert done.code == 0, done.stderr
    assert "Warning: --pool-device cuda was requested, but the model runs on cpu" in done.stderr
    assert done.meta["pool"]["enabled"] is True


def test_abbreviations_of_the_prompt_are_written_out(generate: Any) -> None:
    arguments = ("--max-length", "2", "--json-meta")
    expanded = generate(*arguments, text="Explain HTN.").meta
    assert expanded["prompt"]["abbreviations"] == {"expanded": {"HTN": "hypertension"}}
    assert expanded["constraints_report"]["input_words"] == 2, "of what the user wrote"
    plain = generate(*arguments, "--no-expand-abbreviations", text="Explain HTN.").meta
    assert plain["prompt"]["abbreviations"] == {"expanded": {}}
    assert plain["prompt"]["tokens"] < expanded["prompt"]["tokens"]


def test_loading_is_said_on_a_terminal_only(generate: Any) -> None:
    said = f"Loading {generate.model} …"
    assert said in generate("--max-length", "2", terminal=True).stderr.splitlines()
    assert "Loading" not in generate("--max-length", "2").stderr
    assert "Loading" not in generate("--max-length", "2", "--json-meta", terminal=True).stderr


def test_pool_options_without_pooling_are_ignored_with_a_warning(generate: Any) -> None:
    arguments = ("--no-memory-pooling", "--pool-max-bytes", "1048576", "--pool-device", "cpu")
    done = generate(*arguments, "--max-length", "2", "--json-meta")
    assert done.code == 0
    assert "Warning: --pool-max-bytes and --pool-device ignored: --no-memory-pooling" in done.stderr
    assert done.meta["pool"] == {"enabled": False}


def test_engine_flags(generate: Any) -> None:
    arguments = ("--dtype", "float32", "--threads", "1", "--deterministic", "--seed", "5", "--max-model-len", "64")
    meta = generate(*arguments, "--kv-cache-bytes", "4000000", "--max-length", "3", "--json-meta").meta
    assert (meta["dtype"], meta["threads"], meta["deterministic"], meta["seed"]) == ("float32", 1, True, 5)
    assert 0 < meta["memory"]["kv_cache_bytes"] <= 4_000_000
    assert generate("--dtype", "bfloat16", "--max-length", "2", "--json-meta").meta["dtype"] == "bfloat16"


@pytest.mark.parametrize("threads", [1, 2])
def test_threads(generate: Any, threads: int) -> None:
    """As many as asked for, whatever an earlier run of this process had; the text does not depend on it."""
    done = generate("--threads", str(threads), "--max-length", "8", "--json-meta")
    assert done.meta["threads"] == threads
    assert done.text == generate("--max-length", "8", "--json-meta").text


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_quantization(generate: Any, bits: str) -> None:
    done = generate("--quantization", bits, "--max-length", "4", "--json-meta")
    assert done.code == 0, done.stderr
    assert done.meta["quantization"] == bits


def test_profile(generate: Any) -> None:
    done = generate("--profile", "--emit-trace", "--profiler-device", "cpu", "--max-length", "2", "--json-meta")
    profile = done.meta["profile"]
    assert profile["wall_time_ms"] > 0
    trace = Path(profile["trace_path"])
    assert trace.parent == Path("profiles").resolve(), "the default folder"
    assert json.loads(trace.read_text())["traceEvents"]
    done = generate("--profile", "--max-length", "2")
    assert done.stderr.splitlines()[-1].startswith("Profile: wall ")
    done = generate("--profile", "--emit-trace", "--trace-dir", "elsewhere", "--max-length", "2")
    assert len(list(Path("elsewhere").iterdir())) == 1


def test_output_files(generate: Any) -> None:
    done = generate("--max-length", "4", "--output", "out.txt", "--json-meta")
    assert done.code == 0, done.stderr
    assert Path("out.txt").read_text().endswith(f"{DISCLAIMER}\n")
    assert json.loads(Path("out.txt.meta.json").read_text()) == json.loads(done.stdout)
    assert generate("--max-length", "4", "--output", "plain.txt").stdout == ""
    assert sorted(path.name for path in Path().iterdir()) == ["out.txt", "out.txt.meta.json", "plain.txt"]


def test_a_schema_may_come_through_a_pipe(generate: Any, byte_model: Path) -> None:
    """As of `--json-schema <(make-schema)`, which can be read once."""
    source, sink = os.pipe()
    os.write(sink, b'{"type": "array", "items": {"type": "integer", "maximum": 9}, "maxItems": 3}')
    os.close(sink)
    done = generate("--model", str(byte_model), "--json-schema", f"/dev/fd/{source}", "--max-length", "60")
    os.close(source)
    assert len(json.loads(done.stdout)) <= 3


def test_json_schema(generate: Any, byte_model: Path) -> None:
    Path("schema.json").write_text('{"type": "array", "items": {"type": "integer", "maximum": 9}, "maxItems": 3}')
    done = generate("--model", str(byte_model), "--json-schema", "schema.json", "--max-length", "60")
    assert done.code == 0, done.stderr
    value = json.loads(done.stdout)
    assert isinstance(value, list)
    assert len(value) <= 3
    assert "Warning: no disclaimer is added" in done.stderr


def test_a_long_prompt_is_refused_or_cut(generate: Any) -> None:
    long = "Take less salt each day. " * 200
    done = generate("--max-length", "5", text=long)
    assert done.code == 1
    assert done.stderr.splitlines()[-1].startswith("Error: the prompt is 1,2")
    assert "takes 512" in done.stderr
    done = generate("--max-length", "5", "--truncate", "--json-meta", text=long)
    assert done.code == 0, done.stderr
    assert done.meta["prompt"]["truncated_tokens"] > 600
    assert done.meta["prompt"]["tokens"] <= 507
    assert done.meta["output_tokens"] == 5


def test_compile_mode_without_compile_is_warned_of(generate: Any) -> None:
    done = generate("--compile-mode", "max-autotune", "--max-length", "2", "--json-meta")
    assert "Warning: --compile-mode ignored: --compile is not given" in done.stderr
    assert done.meta["compile_mode"] is None


def test_a_model_registered_for_another_task_is_refused(generate: Any) -> None:
    from medvllm.registry import ModelRegistry

    registry = ModelRegistry(generate.home)
    registry.register("tiny", str(generate.model), tasks=["generation"])
    registry.register("tagger", str(generate.model), tasks=["ner"])
    done = generate("--model", "tiny", "--max-length", "2", "--json-meta")
    assert done.code == 0, done.stderr
    assert "Warning" not in done.stderr
    assert done.meta["model"] == "tiny"
    done = generate("--model", "tagger")
    assert (done.code, done.stderr) == (1, "Error: Model 'tagger' does not support task 'generation'\n")
