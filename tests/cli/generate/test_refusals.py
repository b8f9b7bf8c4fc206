"""Bad input gets one line that says what to do, and the right exit code; nothing is half written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def failed(done: Any, code: int, *words: str) -> None:
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Warning: ")]
    assert done.code == code, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    for word in words:
        assert word in lines[0]
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--temperature", "-1"], ["--temperature must be 0 or more", "got -1.0"]),
        (["--temperature", "warm"], ["'warm' is not a valid float"]),
        (["--beam-width", "0"], ["--beam-width must be 1 or more, got 0"]),
        (["--top-p", "1.5"], ["--top-p must be above 0 and at most 1, got 1.5"]),
        (["--top-p", "0"], ["--top-p must be"]),
        (["--top-k", "0"], ["--top-k must be"]),
        (["--max-length", "0"], ["--max-length must be 1 or more (new tokens), got 0"]),
        (["-n", "2", "--strategy", "greedy"], ["greedy gives one text"]),
        (["--strategy", "best"], ["'best' is not one of 'greedy', 'sampling', 'beam'"]),
        (["--purpose", "pirate"], ["'pirate' is not one of", "'patient'", "'clinician'"]),
        (["--readability", "x"], ["'general'"]),
        (["--tone", "x"], ["'informal'"]),
        (["--structure", "x"], ["'soap'"]),
        (["--specialty", "x"], ["'cardiology'", "'urology'"]),
        (["--attention-impl", "fast"], ["'auto', 'flash', 'sdpa', 'manual'"]),
        (["--quantization", "int3"], ["'int8', 'int4'"]),
        (["--target-chars", "20"], ["--target-chars must be at least", "--no-disclaimer"]),
        (["--input", "x.txt"], ["--text and --input exclude each other"]),
        (["--prompts-file", "x.jsonl"], ["--text and --prompts-file exclude each other"]),
        (["--restart"], ["--restart is for --prompts-file"]),
        (["--temprature", "1"], ["No such option", "--temperature"]),
    ],
)
def test_wrong_usage(generate: Any, arguments: list[str], words: list[str]) -> None:
    failed(generate(*arguments), 2, *words)


def test_a_model_is_needed(run: Any) -> None:
    done = run("inference", "generate", "--text", "x")
    assert done.returncode == 2
    assert "Missing option '--model'" in done.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("smolm2-135m-instruct", ["there is no model 'smolm2-135m-instruct'", "did you mean smollm2-135m-instruct?"]),
        ("./nowhere", ["there is no file or folder './nowhere'"]),
        ("no/such-model", ["there is no model 'no/such-model'", "not registered"]),
    ],
)
def test_unknown_models(generate: Any, name: str, words: list[str]) -> None:
    failed(generate("--model", name), 1, *words)


def test_missing_weights(generate: Any) -> None:
    Path("empty").mkdir()
    failed(generate("--model", "./empty"), 1, "no config.json")
    (Path("empty") / "config.json").write_text((generate.model / "config.json").read_text())
    failed(generate("--model", "./empty"), 1, "there are no weights", "model.safetensors")


def test_truncated_weights(generate: Any) -> None:
    import shutil

    shutil.copytree(generate.model, "cut")
    weights = Path("cut", "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1000])
    failed(generate("--model", "./cut"), 1, "model.safetensors")


def test_weights_in_pickle_files_are_taken_where_that_is_allowed(generate: Any) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file

    expected = generate("--max-length", "4").stdout
    shutil.copytree(generate.model, "pickled")
    torch.save(load_file("pickled/model.safetensors"), "pickled/pytorch_model.bin")
    Path("pickled/model.safetensors").unlink()
    failed(generate("--model", "./pickled"), 1, "are pickle files", "--allow-pickle")
    done = generate("--model", "./pickled", "--max-length", "4", "--allow-pickle")
    assert done.code == 0, done.stderr
    assert done.stdout == expected


def test_unusable_texts(generate: Any) -> None:
    failed(generate(text=""), 1, "--text is empty")
    Path("empty.txt").write_text(" \n")
    failed(generate("--input", "empty.txt", text=None), 1, "empty.txt is empty")
    Path("image.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR")
    failed(generate("--input", "image.png", text=None), 1, "a PNG image, not text")
    failed(generate("--input", "none.txt", text=None), 1, "there is no file none.txt")


def test_unusable_schemas(generate: Any, byte_model: Path) -> None:
    failed(generate("--json-schema", "none.json"), 1, "there is no file none.json")
    Path("broken.json").write_text('{"type": ')
    failed(generate("--json-schema", "broken.json"), 1, "broken.json is not JSON", "line 1")
    Path("list.json").write_text("[]")
    failed(generate("--json-schema", "list.json"), 1, "must hold a JSON object")
    Path("wrong.json").write_text('{"type": "nonsense"}')
    failed(generate("--model", str(byte_model), "--json-schema", "wrong.json"), 1, "json_schema can't be used")
    Path("good.json").write_text('{"type": "object"}')
    failed(generate("--json-schema", "good.json", "--target-words", "9"), 2, "without --target-words")
    failed(generate("--json-schema", "good.json", "--strategy", "beam"), 2, "beam search does not follow")


def test_output_that_can_not_be_written_is_said_before_the_work(generate: Any) -> None:
    failed(generate("--output", "no/such/file"), 1, "there is no folder")
    Path("folder").mkdir()
    failed(generate("--output", "folder"), 1, "is a folder")
    Path("in.txt").write_text("Explain salt.")
    failed(generate("--input", "in.txt", "--output", "./in.txt", text=None), 2, "is the input and the output")
    assert Path("in.txt").read_text() == "Explain salt."


def test_a_context_too_small_or_a_cache_too_small(generate: Any) -> None:
    failed(generate("--max-model-len", "4"), 1, "tokens, and the model takes 4")
    failed(generate("--kv-cache-bytes", "10"), 1, "needs", "bytes")


def test_trace_folder_that_can_not_be_made(generate: Any) -> None:
    Path("file").write_text("x")
    failed(generate("--profile", "--emit-trace", "--trace-dir", "file/traces", "--max-length", "2"), 1, "--trace-dir")


def test_help_imports_no_torch(run: Any) -> None:
    import subprocess
    import sys

    program = (
        "import sys; sys.argv = ['medvllm', 'inference', 'generate', '--help']\n"
        "from medvllm.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == "[]\n", done.stderr
    assert "--target-words" in done.stdout
