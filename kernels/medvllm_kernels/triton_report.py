"""Compiles launches for NVIDIA GPUs that need not be there, and reads what the assembler made of them.

triton brings ptxas, nvdisasm and cuobjdump in its wheel, so registers, spills and instructions of a kernel are known on
any machine. Arguments are specialised as at a real launch: 1 becomes a constant, numbers and pointers divisible by 16
are marked so; without that mark no load is wide.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from medvllm_kernels.triton_support import Launch, triton

__all__ = ["CAPABILITIES", "KernelReport", "compile_launch"]

CAPABILITIES: Final = (80, 90)  # A100, H100

_TYPES: Final = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "i1",
    torch.uint8: "u8",
    torch.int8: "i8",
}
_DIVISIBLE: Final = [["tt.divisibility", 16]]


@dataclass(frozen=True, slots=True)
class KernelReport:
    """What a compiled kernel uses, per thread where not said otherwise.

    `spills` counts the instructions that move a register to or from local memory; `wide_loads` those that read 16
    bytes from global memory, of `loads` in all; `tensor_ops` are the instructions of the tensor cores.
    """

    capability: int
    registers: int
    shared_bytes: int  # per block
    spills: int
    loads: int
    wide_loads: int
    tensor_ops: int


def _specialise(launch: Launch) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], Any]]:
    """Signature, constants and attributes of a launch, as triton's launcher would make them."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], Any] = {}
    for index, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1):
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = f"*{_TYPES[value.dtype]}"
            if value.storage_offset() * value.element_size() % 16 == 0:  # the allocator's blocks are aligned
                attributes[(index,)] = _DIVISIBLE
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(index,)] = _DIVISIBLE
    return signature, constants, attributes


def compile_launch(launch: Launch, capability: int) -> KernelReport:
    """Compiles one launch for a compute capability (80 for 8.0) and reads the machine code.

    The tensors of the launch may be on the device `meta`. triton keeps what it compiled in its cache on disk.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constants, attributes = _specialise(launch)
    compiled = triton.compile(
        ASTSource(launch.kernel, signature, constants, attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": launch.num_warps, "num_stages": launch.num_stages},
    )
    return _read(compiled.asm["cubin"], capability, int(compiled.metadata.shared))


def _read(cubin: bytes, capability: int, shared_bytes: int) -> KernelReport:
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run(
            [tools / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
        code = subprocess.run([tools / "nvdisasm", "-c", file.name], capture_output=True, text=True, check=True).stdout
    registers = re.search(r"REG:(\d+)", usage)
    if registers is None:
        raise RuntimeError(f"cuobjdump printed no register count: {usage!r}")
    loads = re.findall(r"\b(?:LDG|LDGSTS)\.E[.\w]*", code)
    return KernelReport(
        capability=capability,
        registers=int(registers[1]),
        shared_bytes=shared_bytes,
        spills=len(re.findall(r"\b(?:STL|LDL)\b", code)),
        loads=len(loads),
        wide_loads=sum(".128" in load for load in loads),
        tensor_ops=len(re.findall(r"\b(?:HMMA|HGMMA|WGMMA)\b", code)),
    )
