"""GPU energy through the real NVML bindings over a stub library: what was put in comes out, or a reason."""

from __future__ import annotations

from typing import Any

import pytest


def _joules(scenarios: dict[str, Any], name: str) -> float:
    gpu = scenarios[name]["energy"]["gpu"]
    assert gpu["quality"] == "measured", gpu
    value: float = gpu["value"]
    return value


def _reason(scenarios: dict[str, Any], name: str) -> str:
    """The reason of a component that is unknown; the total must be unknown with it."""
    energy = scenarios[name]["energy"]
    for component in ("gpu", "total", "net", "prefill", "decode", "carbon"):
        assert energy[component]["value"] is None, component
        assert energy[component]["quality"] == "unavailable"
        assert energy[component]["reason"]
    assert energy["mean_power_w"] is None
    reason: str = energy["gpu"]["reason"]
    return reason


@pytest.mark.parametrize(
    ("name", "joules", "uuids"),
    [
        ("counters", 173.456, ["GPU-00000000-aaaa", "GPU-10000000-aaaa"]),
        ("one_of_two", 123.456, ["GPU-00000000-aaaa"]),
        ("invisible", 50.0, ["GPU-10000000-aaaa"]),
        ("by_uuid", 7.0, ["GPU-20000000-aaaa"]),
        ("mig", 80.0, ["GPU-00000000-aaaa"]),
        ("two_instances", 80.0, ["GPU-00000000-aaaa"]),
        ("hiccup", 33.3, ["GPU-00000000-aaaa"]),
    ],
)
def test_the_counter_gives_the_injected_joules_of_the_gpus_used(
    scenarios: dict[str, Any], name: str, joules: float, uuids: list[str]
) -> None:
    assert _joules(scenarios, name) == pytest.approx(joules, rel=1e-3)
    assert scenarios[name]["uuids"] == uuids
    assert scenarios[name]["energy"]["gpu"]["source"] == "nvml energy counter"


def test_a_mig_instance_is_labelled_with_the_whole_device(scenarios: dict[str, Any]) -> None:
    scope = scenarios["mig"]["energy"]["gpu"]["scope"]
    assert "whole device" in scope
    assert "MIG 2g.10gb" in scope


def test_without_a_counter_power_is_polled(scenarios: dict[str, Any]) -> None:
    energy = scenarios["polled"]["energy"]
    duration_s = energy["devices"][0]["duration_s"]
    assert duration_s == pytest.approx(scenarios["polled"]["duration_s"], abs=0.01)
    assert _joules(scenarios, "polled") == pytest.approx(200 * duration_s, rel=1e-3)
    assert energy["mean_power_w"] == pytest.approx(200, rel=1e-3)
    assert (energy["gpu"]["source"], energy["gpu"]["uncertainty"]) == ("nvml power", None)
    assert "trapezoid" in energy["gpu"]["sampling"]
    assert "a quarter of the time" in energy["gpu"]["sampling"]  # as of every A100


def test_polled_power_follows_a_step(scenarios: dict[str, Any]) -> None:
    answer = scenarios["polled_steps"]
    assert answer["live_w"] == 300
    # The step lies somewhere between two polls, 20 ms apart or more under load.
    expected = 300 * answer["energy"]["devices"][0]["duration_s"] - 200 * answer["at_100_w_s"]
    assert _joules(scenarios, "polled_steps") == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("all_hidden", "CUDA_VISIBLE_DEVICES='' hides all 2"),
        ("beyond", "GPU 2 was asked for, and 2 are visible"),
        ("lost", "GPU-10000000-aaaa: NVML TotalEnergyConsumption: GPU is lost"),
        ("backwards", "the counter went back from 9000.000 J to 1000.000 J"),
        ("short", "shorter than the 100 ms"),
        ("polled_gap", "s: NVML PowerUsage: Unknown Error"),
        ("no_sensor", "neither energy counter nor power"),
        ("no_driver", "the NVIDIA driver gives no access: Driver Not Loaded"),
    ],
)
def test_a_reading_that_fails_is_null_with_its_reason(scenarios: dict[str, Any], name: str, expected: str) -> None:
    assert expected in _reason(scenarios, name)


def test_throttling_is_reported_and_idleness_is_none(scenarios: dict[str, Any]) -> None:
    assert scenarios["counters"]["throttle"] == []
    assert scenarios["throttled"]["throttle"] == ["sw_power_cap", "sw_thermal_slowdown"]
    assert scenarios["lost"]["throttle"] is None
    assert scenarios["no_driver"]["throttle"] is None


def test_gpus_of_several_models_warn_of_cudas_order(scenarios: dict[str, Any]) -> None:
    assert scenarios["counters"]["warnings"] == []
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in scenarios["unlike"]["warnings"][0]


def test_two_processes_on_a_gpu_count_it_once(scenarios: dict[str, Any]) -> None:
    answer = scenarios["two_processes"]
    assert answer["alone"] == pytest.approx([110, 1000, 101], rel=1e-3)
    assert answer["energy"]["gpu"]["value"] == pytest.approx(1111, rel=1e-3)
    assert answer["energy"]["decode"]["value"] is None
    assert "several processes ran on GPU-00000000-aaaa at once" in answer["energy"]["decode"]["reason"]


def test_processes_on_gpus_of_their_own_are_summed(scenarios: dict[str, Any]) -> None:
    energy = scenarios["two_processes"]["apart"]
    assert energy["gpu"]["value"] == pytest.approx(1110, rel=1e-3)
    assert energy["decode"]["value"] == pytest.approx(1110, rel=1e-3)
    assert energy["sampler_cpu_s"] > 0


def test_idle_power_is_taken_off_over_the_runs_own_window(scenarios: dict[str, Any]) -> None:
    answer = scenarios["idle_and_net"]
    baseline, energy = answer["baseline"], answer["energy"]
    assert baseline["power_w"] == pytest.approx(100, rel=0.05)
    assert baseline["duration_s"] == pytest.approx(3, abs=0.2)
    assert baseline["standard_error_w"] > 0
    duration_s = energy["devices"][0]["duration_s"]
    assert energy["net"]["value"] == pytest.approx(energy["total"]["value"] - baseline["power_w"] * duration_s)
    assert energy["net"]["value"] == pytest.approx(60, abs=17)  # 100 ms of 100 W at both ends, and of the baseline
    assert energy["net"]["uncertainty"]["low"] < energy["net"]["value"] < energy["net"]["uncertainty"]["high"]


def test_prefill_and_decode_share_the_total_by_their_times(scenarios: dict[str, Any]) -> None:
    energy = scenarios["idle_and_net"]["energy"]
    assert energy["prefill"]["value"] + energy["decode"]["value"] == pytest.approx(energy["total"]["value"], rel=0.02)
    expected = 100 * scenarios["idle_and_net"]["prefill_s"] + 60
    assert energy["prefill"]["value"] == pytest.approx(expected, abs=20)
    assert energy["prefill"]["uncertainty"]["low"] < energy["prefill"]["value"]


def test_phases_that_the_sensor_cannot_tell_apart_are_refused(scenarios: dict[str, Any]) -> None:
    tiny, clash = scenarios["idle_and_net"]["tiny"], scenarios["idle_and_net"]["clash"]
    assert tiny["prefill"]["value"] is None
    assert "prefill phases last 20 ms (median), less than the 100 ms" in tiny["prefill"]["reason"]
    assert tiny["decode"]["value"] > 0
    assert clash["decode"]["value"] is None
    assert "overlap" in clash["decode"]["reason"]
    untimed = scenarios["counters"]["energy"]["prefill"]
    assert (untimed["value"], untimed["reason"]) == (None, "the backend gave no times of its phases")


def test_carbon_needs_an_intensity(scenarios: dict[str, Any]) -> None:
    energy = scenarios["idle_and_net"]["energy"]
    assert energy["carbon"]["value"] == pytest.approx(energy["total"]["value"] / 3.6e6 * 0.36)
    assert "0.36 kg/kWh" in energy["carbon"]["source"]
    none = scenarios["counters"]["energy"]["carbon"]
    assert (none["value"], none["unit"]) == (None, "kg")
    assert "carbon_intensity" in none["reason"]


def test_an_idle_machine_is_another_one_when_a_process_holds_its_gpu(scenarios: dict[str, Any]) -> None:
    answer = scenarios["idle_and_net"]
    assert answer["key"] != answer["other_key"]


def test_the_trace_is_in_watts_over_the_window(scenarios: dict[str, Any]) -> None:
    trace = scenarios["idle_and_net"]["trace"]
    assert all(watts == 61 for _, watts in trace)  # the stub's power, which its counter does not follow
    assert 0 < trace[0][0] < trace[-1][0] < 3


def test_the_tree_is_the_contracts(scenarios: dict[str, Any]) -> None:
    assert scenarios["topology"]["tree"] == (
        "GPU Topology (4 device(s) detected)\n"
        "├── [0] NVIDIA A100-PCIE-40GB (40GB) - Full GPU\n"
        "├── [1] NVIDIA A100-PCIE-40GB (40GB) - MIG Enabled (3 instances)\n"
        "├── [2] NVIDIA A100-PCIE-40GB (40GB) - MIG Enabled (3 instances)\n"
        "└── [3] NVIDIA A100-PCIE-40GB (40GB) - MIG Enabled (3 instances)\n"
    )


def test_instances_hidden_gpus_and_lost_ones_are_named(scenarios: dict[str, Any]) -> None:
    text = scenarios["topology"]["instances"]
    assert "├── [0] NVIDIA A100-PCIE-40GB (40GB) - Full GPU (hidden by CUDA_VISIBLE_DEVICES)\n" in text
    assert "│   ├── [0] 1g.5gb (4.8GB) MIG-aaaa-0\n" in text
    assert "└── [3] can't be read: GPU is lost" in text
    plain = scenarios["topology"]["json"]
    assert [gpu["visible"] for gpu in plain["gpus"]] == [False, True, False, False]
    assert plain["gpus"][1]["instances"][0]["profile"] == "1g.5gb"
    assert (plain["driver"], plain["cuda"], plain["reason"]) == ("999.1", "13.2", None)
