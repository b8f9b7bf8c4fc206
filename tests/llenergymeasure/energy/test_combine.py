"""Sums over windows that overlap, follow each other, or failed, without a sensor."""

from __future__ import annotations

import pytest

from llenergymeasure.energy import combine
from llenergymeasure.energy.base import ComponentName
from llenergymeasure.energy.combine import assemble
from llenergymeasure.results.schema import Component, DeviceEnergy, Energy

NO_PHASE = Component(value=None, quality="unavailable", reason="no phases")


def _window(start_s: float, duration_s: float, joules: float | None, **fields: object) -> DeviceEnergy:
    return DeviceEnergy.model_validate(
        {
            "component": "gpu",
            "device": "GPU-a",
            "value_j": joules,
            "quality": "unavailable" if joules is None else "measured",
            "source": "nvml power",
            "scope": "GPU-a (whole device)",
            "sampling": "power, trapezoid",
            "started_s": start_s,
            "duration_s": duration_s,
            "reason": "GPU is lost" if joules is None else None,
            **fields,
        }
    )


def _energy(*windows: DeviceEnergy, intensity: float | None = None) -> Energy:
    missing: dict[ComponentName, str] = {"gpu": "no GPU", "cpu": "no RAPL", "ram": "no RAPL"}
    return assemble(
        windows, missing, prefill=NO_PHASE, decode=NO_PHASE, carbon_intensity_kg_per_kwh=intensity, sampler_cpu_s=0.25
    )


def test_polled_windows_that_overlap_are_joined_in_proportion() -> None:
    both = combine([_energy(_window(5, 10, 1200)), _energy(_window(0, 10, 1000))])
    assert both.gpu.value == pytest.approx(1000 + 1200 / 2)
    assert both.mean_power_w == pytest.approx(1600 / 15)
    assert both.sampler_cpu_s == 0.5
    assert both.devices[0].duration_s == 15


def test_a_window_within_another_adds_nothing_even_where_it_failed() -> None:
    assert combine([_energy(_window(0, 10, 1000)), _energy(_window(2, 3, 290))]).gpu.value == 1000
    assert combine([_energy(_window(0, 10, 1000)), _energy(_window(2, 3, None))]).gpu.value == 1000


def test_a_window_that_failed_beyond_another_makes_the_sum_unknown() -> None:
    both = combine([_energy(_window(0, 10, 1000)), _energy(_window(5, 10, None))])
    assert both.gpu.value is None
    assert both.gpu.reason == "GPU-a: GPU is lost"


def test_other_devices_at_the_same_time_are_summed() -> None:
    both = combine([_energy(_window(0, 10, 1000)), _energy(_window(0, 10, 500, device="GPU-b"))])
    assert both.gpu.value == 1500
    assert both.mean_power_w == 150


def test_an_estimate_makes_the_total_one_and_takes_away_its_interval() -> None:
    measured = _window(0, 10, 1000, standard_error_j=5.0)
    modelled = _window(0, 10, 80, component="cpu", device="model", quality="estimated", reason="TDP", source="m")
    energy = _energy(measured, modelled)
    assert energy.gpu.uncertainty is not None
    assert (energy.total.value, energy.total.quality, energy.total.uncertainty) == (1080, "estimated", None)
    assert energy.total.reason == "TDP; without ram: no RAPL"


def test_net_of_windows_that_share_a_baseline_adds_its_error() -> None:
    idle = {"idle_w": 60.0, "idle_error_w": 1.0, "idle_duration_s": 30.0, "idle_degrees": 19.0}
    one = _energy(_window(0, 100, 10_000, standard_error_j=0.0, **idle))
    two = combine([one, _energy(_window(200, 100, 10_000, standard_error_j=0.0, **idle))])
    assert (one.net.value, two.net.value) == (4000, 8000)
    assert one.net.uncertainty is not None
    assert two.net.uncertainty is not None
    # t(19) = 2.093; one: √(100² + 30·100), two: √(200² + 30·200) J
    assert one.net.uncertainty.high - 4000 == pytest.approx(2.09302 * 13_000**0.5, rel=1e-4)
    assert two.net.uncertainty.high - 8000 == pytest.approx(2.09302 * 46_000**0.5, rel=1e-4)


def test_carbon_of_windows_with_unlike_intensities_is_not_given() -> None:
    parts = [_energy(_window(10 * n, 10, 1000), intensity=value) for n, value in enumerate((0.2, 0.2, 0.4))]
    assert combine(parts[:2]).carbon.value == pytest.approx(2000 / 3.6e6 * 0.2)
    assert combine(parts).carbon.value is None


def test_nothing_is_no_energy() -> None:
    with pytest.raises(ValueError, match="no energy"):
        combine([])
