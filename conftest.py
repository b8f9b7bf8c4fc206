"""For a bare checkout: puts the repository and kernels/ on the path. Chooses the device of hardware tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
for folder in (ROOT / "kernels", ROOT):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture(
    params=[
        "cpu",
        pytest.param("cuda", marks=pytest.mark.cuda),
        pytest.param("xla", marks=pytest.mark.xla),
    ]
)
def device(request: pytest.FixtureRequest) -> str:
    """The device of a hardware test; skips with the reason where this machine does not have it."""
    from medvllm.utils.device import unavailable

    reason = unavailable(request.param)
    if reason:
        pytest.skip(reason)
    return str(request.param)
