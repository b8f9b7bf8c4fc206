"""The one place that looks for the engine's native library. All of it has torch references with the same results.

Built by hand from the repository root:
    g++ -O3 -std=c++17 -ffp-contract=off -fPIC -shared -pthread -fvisibility=hidden \
        -o kernels/medvllm_kernels/_native/libmedvllm_engine.so kernels/native/engine/*.cc
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from typing import Any

__all__ = ["EngineLibraryError", "instruction_set", "library", "missing", "span", "status", "threads"]

ABI_VERSION = 2
_PACKAGED = os.path.join(os.path.dirname(__file__), "_native", "libmedvllm_engine.so")
_INSTRUCTION_SETS = ("portable", "avx2", "avx512", "avx512vnni")


class EngineLibraryError(ValueError):
    """An environment variable asks for a library or an instruction set that cannot be used."""


def library() -> ctypes.CDLL | None:
    """The native library, or None where the torch references are to be used.

    $MEDVLLM_DISABLE_NATIVE=1 chooses torch; $MEDVLLM_NATIVE_ENGINE_LIB names a library elsewhere, and must then be
    usable; $MEDVLLM_NATIVE_ISA=portable|avx2|avx512|avx512vnni chooses the instruction set, by default the machine's
    best.
    """
    return _probe()[0]


def status() -> str:
    """Which path is in use and why, in one line."""
    return _probe()[1]


def missing() -> bool:
    """Whether torch takes the library's place although nobody asked for it."""
    return library() is None and not _disabled()


def instruction_set() -> str | None:
    """portable, avx2, avx512 or avx512vnni; None where the library is not used."""
    loaded = library()
    return None if loaded is None else str(loaded.mv_engine_isa().decode())


def threads() -> int:
    """Threads of a call that does not say: as many as torch has."""
    import torch

    return int(torch.get_num_threads())


def span(numbers: Any) -> tuple[int, int]:
    """The least and the greatest of (n,) whole numbers, n > 0."""
    if numbers.numel() <= 64:  # read one by one before torch has begun its two reductions
        known = numbers.tolist()
        return min(known), max(known)
    low, high = numbers.aminmax()
    return int(low), int(high)


def _disabled() -> bool:
    return os.environ.get("MEDVLLM_DISABLE_NATIVE", "") not in ("", "0")


@functools.cache
def _probe() -> tuple[ctypes.CDLL | None, str]:
    if _disabled():
        return None, "torch (MEDVLLM_DISABLE_NATIVE is set)"
    named = os.environ.get("MEDVLLM_NATIVE_ENGINE_LIB")
    path = named or _PACKAGED
    problem = "no such file"
    if os.path.isfile(path):
        try:
            loaded = ctypes.CDLL(path)
            version = int(loaded.mv_engine_abi_version())
        except (OSError, AttributeError) as error:
            problem = str(error)
        else:
            if version == ABI_VERSION:
                _declare(loaded)
                _choose_instruction_set(loaded)
                return loaded, f"native ({path}, {loaded.mv_engine_isa().decode()})"
            problem = f"its interface is version {version}, version {ABI_VERSION} was expected"
    if named:
        raise EngineLibraryError(
            f"MEDVLLM_NATIVE_ENGINE_LIB={named} cannot be used: {problem}; "
            "name a libmedvllm_engine.so built from this version, or unset it"
        )
    return None, f"torch ({path}: {problem})"


def _choose_instruction_set(loaded: ctypes.CDLL) -> None:
    wanted = os.environ.get("MEDVLLM_NATIVE_ISA")
    if not wanted:
        return
    if wanted not in _INSTRUCTION_SETS:
        raise EngineLibraryError(f"MEDVLLM_NATIVE_ISA must be one of {', '.join(_INSTRUCTION_SETS)}, got {wanted}")
    if not loaded.mv_engine_choose_isa(wanted.encode()):
        raise EngineLibraryError(f"MEDVLLM_NATIVE_ISA={wanted}: this processor does not have it; unset the variable")


def _profiled(name: str, function: Callable[..., None]) -> Callable[..., None]:
    """`function`, which torch's profiler sees as the operator `medvllm::name`."""
    import torch

    enabled, record = torch.autograd._profiler_enabled, torch.profiler.record_function

    def call(*arguments: object) -> None:
        if not enabled():  # 0.1 µs; a record_function takes 8, profiled or not
            function(*arguments)
            return
        with record(f"medvllm::{name}"):
            function(*arguments)

    return call


_POINTER, _LONG, _FLOAT, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
# Arguments of the functions that return nothing, in the letters p(ointer), l(ong), f(loat), i(nt).
_ARGUMENTS = {
    "pack": "ppli",
    "pack_ggml": "ppli",
    "gather_rows": "pplp",
    "linear": "pplllplli",
    "attention": "pi",
    "store_kv": "ppllppp" + "l" * 9 + "i",
    "rms_norm": "pppppllffli",
    "layer_norm": "ppppllfli",
    "act_and_mul": "pplllli",
    "activate": "ppllli",
    "rotary": "ppplllllli",
    "argmax": "pllpi",
    "sample": "pi",
    "decoder": "ppi",
}


def _declare(loaded: ctypes.CDLL) -> None:
    kinds = {"p": _POINTER, "l": _LONG, "f": _FLOAT, "i": _INT}
    for name, letters in _ARGUMENTS.items():
        function = getattr(loaded, f"mv_engine_{name}")
        function.argtypes = [kinds[letter] for letter in letters]
        function.restype = None
        setattr(loaded, f"mv_engine_{name}", _profiled(name, function))
    loaded.mv_engine_isa.restype = ctypes.c_char_p
    loaded.mv_engine_choose_isa.argtypes = [ctypes.c_char_p]
    loaded.mv_engine_packed_bytes.argtypes = [_POINTER]
    loaded.mv_engine_packed_bytes.restype = _LONG
