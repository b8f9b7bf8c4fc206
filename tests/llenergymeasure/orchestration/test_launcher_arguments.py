"""Sharding, and what launchers say of themselves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llenergymeasure.config import ExperimentConfig
from llenergymeasure.errors import LemError
from llenergymeasure.orchestration.experiment import process_count, shard
from llenergymeasure.orchestration.launcher import experiment_arguments
from llenergymeasure.orchestration.processes import Ranks, read_ranks
from llenergymeasure.orchestration.warmup import coefficient_of_variation
from llenergymeasure.prompts import Prompt


@given(st.integers(1, 8), st.integers(0, 60))
def test_shards_are_the_input_each_prompt_once(processes: int, more: int) -> None:
    prompts = [Prompt(id=str(index), index=index, text="x") for index in range(processes + more)]
    parts = [shard(prompts, index, processes) for index in range(processes)]
    assert sorted((each for part in parts for each in part), key=lambda each: each.index) == prompts
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_more_processes_than_prompts_is_an_error() -> None:
    with pytest.raises(LemError, match="3 processes need as many prompts, got 2"):
        shard([Prompt(id=str(index), index=index, text="x") for index in range(2)], 0, 3)


def test_data_parallelism_is_that_many_processes() -> None:
    parallel = {"strategy": "data_parallel", "degree": 3}
    config = ExperimentConfig.model_validate({"config_name": "t", "model_name": "m", "parallelism": parallel})
    assert process_count(config) == 3
    assert process_count(config.model_copy(update={"num_processes": 4})) == 4


def test_ranks_of_the_environment() -> None:
    assert read_ranks({}) == Ranks(0, 1)
    assert read_ranks({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}) == Ranks(1, 2)
    with pytest.raises(LemError, match="on one machine"):
        read_ranks({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"})
    with pytest.raises(LemError, match="RANK must be in"):
        read_ranks({"RANK": "2", "WORLD_SIZE": "2"})
    with pytest.raises(LemError, match="must be numbers"):
        read_ranks({"RANK": "first"})


def test_the_launcher_takes_the_options_of_lem_experiment() -> None:
    common = ["experiment", "--distributed", "--yes"]
    assert experiment_arguments(["--config", "a.yaml", "--dataset", "alpaca", "-n", "100"]) == [
        *common,
        "a.yaml",
        "--dataset",
        "alpaca",
        "-n",
        "100",
    ]
    assert experiment_arguments(["--config=a.yaml"]) == [*common, "a.yaml"]


def test_variation_is_deviation_over_mean() -> None:
    assert coefficient_of_variation([1.0]) is None
    assert coefficient_of_variation([2.0, 2.0, 2.0]) == 0
    assert coefficient_of_variation([1.0, 3.0]) == pytest.approx(2**0.5 / 2)
