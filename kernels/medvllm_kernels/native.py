"""The one place that looks for the native library. All of it has Python twins with the same results."""

from __future__ import annotations

import ctypes
import functools
import os

__all__ = ["NativeLibraryError", "library", "status"]

ABI_VERSION = 3
_PACKAGED = os.path.join(os.path.dirname(__file__), "_native", "libmedvllm_text.so")


class NativeLibraryError(ValueError):
    """$MEDVLLM_NATIVE_LIB names a library that cannot be used."""


def library() -> ctypes.CDLL | None:
    """The native library, or None where the Python twins are to be used.

    $MEDVLLM_DISABLE_NATIVE=1 chooses Python; $MEDVLLM_NATIVE_LIB names a library elsewhere, and must then be
    usable.
    """
    return _probe()[0]


def status() -> str:
    """Which path is in use and why, in one line."""
    return _probe()[1]


@functools.cache
def _probe() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get("MEDVLLM_DISABLE_NATIVE", "") not in ("", "0"):
        return None, "Python (MEDVLLM_DISABLE_NATIVE is set)"
    named = os.environ.get("MEDVLLM_NATIVE_LIB")
    path = named or _PACKAGED
    problem = ""
    if not os.path.isfile(path):
        problem = "no such file"
    else:
        try:
            loaded = ctypes.CDLL(path)
            version = int(loaded.mv_abi_version())
            if version == ABI_VERSION:
                return loaded, f"native ({path})"
            problem = f"its interface is version {version}, version {ABI_VERSION} was expected"
        except (OSError, AttributeError) as error:
            problem = str(error)
    if named:
        raise NativeLibraryError(
            f"MEDVLLM_NATIVE_LIB={named} cannot be used: {problem}; "
            "name a libmedvllm_text.so built from this version, or unset it"
        )
    return None, f"Python ({path}: {problem})"
