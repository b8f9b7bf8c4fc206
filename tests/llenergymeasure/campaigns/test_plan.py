"""The order of a campaign's runs, its gaps, its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from llenergymeasure.campaigns.plan import (
    Execution,
    Member,
    Structure,
    is_campaign_file,
    load_campaign,
    members_of,
    plan,
    plan_hash,
)
from llenergymeasure.campaigns.run import member_values
from llenergymeasure.errors import LemError, LemUsageError

MEMBERS = [Member(name, Path(f"{name}.yaml"), {}) for name in ("a", "b", "c")]


def order(structure: Structure, *, cycles: int = 3, seed: int = 0) -> list[str]:
    execution = Execution(cycles=cycles, structure=structure)
    return [f"{step.member.name}{step.cycle}" for step in plan(MEMBERS, execution, seed=seed)]


def test_the_order_of_each_structure() -> None:
    assert " ".join(order("interleaved")) == "a0 b0 c0 a1 b1 c1 a2 b2 c2"
    assert " ".join(order("grouped")) == "a0 a1 a2 b0 b1 b2 c0 c1 c2"
    shuffled = order("shuffled", cycles=8)
    assert [each[1] for each in shuffled] == [str(cycle) for cycle in range(8) for _ in MEMBERS]
    assert all(len(set(shuffled[3 * cycle : 3 * cycle + 3])) == 3 for cycle in range(8))
    assert shuffled != order("interleaved", cycles=8)
    assert shuffled == order("shuffled", cycles=8, seed=0)
    assert shuffled != order("shuffled", cycles=8, seed=1)


@pytest.mark.parametrize(
    ("structure", "gaps"),
    [("interleaved", [0, 60, 60, 300, 60, 60]), ("grouped", [0, 300, 60, 300, 60, 300])],
)
def test_gaps_between_configurations_and_cycles(structure: Structure, gaps: list[float]) -> None:
    steps = plan(MEMBERS, Execution(cycles=2, structure=structure))
    assert [step.gap_s for step in steps] == gaps


def test_a_campaign_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "campaign_name: x\nconfigs: [a.yaml]\nexecution: {cycles: 5}\ngrid: {batching.batch_size: [1, 2]}\n"
    )
    found = load_campaign(path)
    assert is_campaign_file(path)
    assert (found.execution.cycles, found.execution.structure, found.execution.config_gap_seconds) == (
        5,
        "interleaved",
        60,
    )
    assert (found.execution.cycle_gap_seconds, found.execution.warmup_prompts) == (300, 5)
    path.write_text("campaign_name: x\nconfigs: [a.yaml]\nexecution:\n  cycels: 5\n")
    with pytest.raises(LemUsageError, match=r"c.yaml:4: unknown key execution.cycels; did you mean cycles\?"):
        load_campaign(path)
    path.write_text("campaign_name: x\nconfigs: [a.yaml]\nexecution: {cycles: 21}\n")
    with pytest.raises(LemUsageError, match=r"execution.cycles: .*less than or equal to 20, got 21"):
        load_campaign(path)
    path.write_text("campaign_name: x\n")
    with pytest.raises(LemUsageError, match="configs: Field required"):
        load_campaign(path)


def test_members_have_names_that_differ_and_the_values_of_the_grid(tmp_path: Path) -> None:
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text("config_name: fast one/x\nmodel_name: m\n")
    b.write_text("model_name: m\n")
    found = members_of([a, b], {"batching.batch_size": [1, 2], "streaming": [True]})
    assert [each.name for each in found] == [
        "fast-one-x_batch_size=1_streaming=true",
        "fast-one-x_batch_size=2_streaming=true",
        "b_batch_size=1_streaming=true",
        "b_batch_size=2_streaming=true",
    ]
    assert found[1].values == {"batching.batch_size": 2, "streaming": True}
    with pytest.raises(LemError, match="two configurations of the campaign are called b"):
        members_of([b, b], {})


def test_the_warm_up_reaches_each_configuration() -> None:
    values = member_values({"streaming": True}, Execution(warmup_prompts=60, warmup_timeout_seconds=9), warmup_max=50)
    assert values["warmup.min"] == 60
    assert values["warmup.max"] == 60
    assert values["num_cycles"] == 1
    assert values["streaming"] is True
    assert member_values({}, Execution(warmup_prompts=0), warmup_max=50)["warmup.max"] == 0


def test_a_plan_is_known_by_its_runs_settings_and_contents() -> None:
    steps = plan(MEMBERS, Execution())
    first = plan_hash(steps, {"seed": 0}, {"a": "1"})
    assert first == plan_hash(plan(MEMBERS, Execution()), {"seed": 0}, {"a": "1"})
    assert len({first, plan_hash(steps[1:], {"seed": 0}, {"a": "1"}), plan_hash(steps, {"seed": 1}, {"a": "1"})}) == 3
    assert first != plan_hash(steps, {"seed": 0}, {"a": "2"})
