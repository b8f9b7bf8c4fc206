"""Energy of a stretch of time, by component, with how it was had and how far it can be trusted."""

from __future__ import annotations

from llenergymeasure.energy.baseline import BaselineCache, measured_or_cached
from llenergymeasure.energy.combine import combine
from llenergymeasure.energy.meter import EnergyMeter, open_meter
from llenergymeasure.energy.phases import Phase
from llenergymeasure.energy.reading import Reading

__all__ = ["BaselineCache", "EnergyMeter", "Phase", "Reading", "combine", "measured_or_cached", "open_meter"]
