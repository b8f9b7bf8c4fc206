"""The pytorch backend on a GPU: the same counts and limits, phases on a synchronised clock, the allocator's peak."""

from __future__ import annotations

from pathlib import Path

import pytest

from llenergymeasure.backends import get_backend
from llenergymeasure.config import ExperimentConfig
from llenergymeasure.orchestration.traffic import Requests
from llenergymeasure.prompts import Prompt

TEXTS = ("Hypertension is", "A", "The patient was given metformin for")


@pytest.mark.cuda
@pytest.mark.parametrize("device", ["cuda"], indirect=True)
@pytest.mark.parametrize("streaming", [False, True])
def test_counts_limits_and_phases_on_a_gpu(tiny_model: Path, device: str, streaming: bool) -> None:
    config = ExperimentConfig.model_validate(
        {
            "config_name": "t",
            "model_name": str(tiny_model),
            "max_output_tokens": 12,
            "fp_precision": "bfloat16",
            "batching": {"batch_size": 3},
            "decoder": {"preset": "deterministic"},
        }
    )
    prompts = [Prompt(id=str(index), index=index, text=text) for index, text in enumerate(TEXTS)]
    backend = get_backend("pytorch")
    model = backend.load(config, process_index=0, num_processes=1)
    assert model.device == f"{device}:0"
    source = Requests(prompts, tokens=backend.prepare(prompts), batching=config.batching)
    (outcome,) = backend.run(source, streaming=streaming)
    assert [each.input_tokens for each in outcome.requests] == [len(text) for text in TEXTS]
    for each in outcome.requests:
        assert 1 <= each.output_tokens <= 12
        assert (each.ttft_ms is not None) == streaming
        assert each.itl_ms is None or len(each.itl_ms) == each.output_tokens - 1
    prefill, decode = outcome.phases
    assert prefill.start_s < prefill.end_s == decode.start_s < decode.end_s
    peak, scope = backend.peak_memory()
    assert peak is not None
    assert peak > 0
    assert scope == "torch allocator, cuda:0"
    backend.close()
