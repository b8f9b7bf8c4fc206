"""A process's energy is that of the GPUs it computes on, and of no others."""

from __future__ import annotations

from typing import Any

import pytest

from llenergymeasure.config import ExperimentConfig
from llenergymeasure.orchestration.experiment import measured_gpus


@pytest.mark.parametrize(
    ("changes", "processes", "expected"),
    [
        ({}, 1, [[2]]),
        ({}, 2, [[2], [5]]),
        ({"pytorch": {"device_map": "auto"}}, 1, [None]),
        ({"backend": "vllm", "parallelism": {"strategy": "tensor_parallel", "degree": 2}}, 1, [[2, 5]]),
        ({"backend": "vllm"}, 2, [[2], [5]]),
        ({"gpus": [2]}, 2, [[2], []]),
    ],
)
def test_each_process_reads_the_gpus_it_uses(
    changes: dict[str, Any], processes: int, expected: list[list[int] | None]
) -> None:
    config = ExperimentConfig.model_validate({"config_name": "a", "model_name": "m", "gpus": [2, 5]} | changes)
    assert [measured_gpus(config, index, processes) for index in range(processes)] == expected
