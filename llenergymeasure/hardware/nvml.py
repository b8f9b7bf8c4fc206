"""NVIDIA's management library, opened only where it is asked for; every reason it can't be is one message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["NvmlUnavailable", "close_nvml", "open_nvml", "session"]


class NvmlUnavailable(Exception):
    """There is no NVML here; the message says why."""


def open_nvml() -> Any:
    """The initialised module `pynvml`; close_nvml() gives it back.

    Raises:
        NvmlUnavailable: no driver, no bindings, or the driver refuses.
    """
    try:
        import pynvml
    except ImportError as error:
        raise NvmlUnavailable("nvidia-ml-py is not installed; pip install 'medvllm[lem]'") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound as error:
        raise NvmlUnavailable("no NVIDIA driver: libnvidia-ml.so.1 was not found") from error
    except pynvml.NVMLError as error:
        raise NvmlUnavailable(f"the NVIDIA driver gives no access: {error}") from error
    return pynvml


def close_nvml(pynvml: Any) -> None:
    """Gives the library back; a driver that has gone needs no goodbye."""
    try:
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return


@contextmanager
def session() -> Iterator[Any]:
    """`open_nvml` for a block.

    Raises:
        NvmlUnavailable: as open_nvml.
    """
    pynvml = open_nvml()
    try:
        yield pynvml
    finally:
        close_nvml(pynvml)
