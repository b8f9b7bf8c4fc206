"""Words that times are found by.

They stand apart from `temporal`, whose expressions take some 20 ms to compile, to tell whether it is needed.
"""

from __future__ import annotations

__all__ = ["ANCHORS", "MONTHS", "UNITS"]

MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
UNITS = ("day", "week", "month", "year", "hour")
ANCHORS = (*UNITS, "night", "morning", "afternoon", "evening", "tomorrow", "since", *MONTHS)
