"""The vllm backend with a real vLLM in an environment of its own: LEM_TEST_VLLM_PYTHON is its interpreter."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_vllm_completes_and_times_every_request(
    tmp_path: Path, save_tiny: object, subprocess_environment: dict[str, str]
) -> None:
    interpreter = os.environ.get("LEM_TEST_VLLM_PYTHON")
    if not interpreter:
        pytest.skip("LEM_TEST_VLLM_PYTHON does not name the Python of an environment with vLLM")
    assert callable(save_tiny)
    model = save_tiny(tmp_path / "model", hidden_size=128, num_attention_heads=4, num_key_value_heads=4)
    config = {
        "config_name": "vllm",
        "model_name": str(model),
        "backend": "vllm",
        "max_input_tokens": 64,
        "max_output_tokens": 8,
        "fp_precision": "bfloat16",
        "batching": {"batch_size": 4},
        "decoder": {"preset": "deterministic"},
        "warmup": {"max": 1, "min": 1},
        "dataset": {"name": "builtin", "sample_size": 6},
        "save_outputs": True,
    }
    (tmp_path / "vllm.yaml").write_text(json.dumps(config))
    root = Path(__file__).parents[3]
    switches = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    switches |= {"VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONPATH": str(root)}  # not this Python's own packages
    command = [interpreter, "-m", "llenergymeasure", "experiment", "vllm.yaml", "--streaming", "-y", "-o", "results"]
    done = subprocess.run(
        command, cwd=tmp_path, env=subprocess_environment | switches, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = (tmp_path / "results" / "raw").glob("*/process_0.json")
    raw = json.loads(path.read_text())
    assert sorted(request["index"] for request in raw["requests"]) == list(range(6))
    for request in raw["requests"]:
        assert 1 <= request["output_tokens"] <= 8
        assert request["input_tokens"] <= 64
        assert request["ttft_ms"] > 0
        assert len(request["itl_ms"]) == request["output_tokens"] - 1
        assert isinstance(request["output"], str)  # of random weights: it may be empty
    assert raw["segments"][0]["prefill_s"] > 0
    assert raw["segments"][0]["decode_s"] > 0
