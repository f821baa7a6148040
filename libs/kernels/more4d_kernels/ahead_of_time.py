"""Compile a launch for a GPU that is not there, and read the compiler's own report of it.

`compile_launch(launch, capability)` needs triton with its bundled NVIDIA tools, and no GPU. It refuses under
TRITON_INTERPRET=1, because kernels imported then cannot be compiled.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from more4d_kernels.launch import Launch

POINTERS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64", "bool": "i1", "int32": "i32"}


@dataclass(frozen=True)
class Compiled:
    """What cuobjdump says of one compiled kernel: registers a thread, bytes of stack and shared memory, disassembly."""

    name: str
    capability: int
    registers: int
    stack_bytes: int
    spill_instructions: int
    shared_bytes: int
    sass: str

    def global_loads(self) -> list[int]:
        """Bytes that each load from global memory in the disassembly takes, asynchronous copies included."""
        loads = re.findall(r"\bLDG(?:STS)?(\.\S+)", self.sass)
        # LDG.E alone moves 4 bytes; others say how many bits: LDG.E.128.CONSTANT, LDGSTS.E.BYPASS.128, LDG.E.U16.
        named = (re.search(r"\.[US]?(8|16|64|128|256)\b", load) for load in loads)
        return [int(bits.group(1)) // 8 if bits else 4 for bits in named]


def compile_launch(launch: Launch, capability: int) -> Compiled:
    """The launch compiled for compute capability `capability` (80, 90, 100), with the compiler's report.

    Raises ValueError where the kernel was imported for the interpreter, and what Triton raises.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if not isinstance(launch.kernel, triton.JITFunction):
        raise ValueError("this kernel was imported under TRITON_INTERPRET=1; compile it in a process without that")
    signature, constants, attributes = specialize(launch)
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    target = GPUTarget("cuda", capability, 32)
    built = triton.compile(source, target=target, options=launch.options)
    usage, sass = _inspect(built.asm["cubin"])
    return Compiled(
        launch.kernel.__name__,
        capability,
        registers=_number(r"REG:(\d+)", usage),
        stack_bytes=_number(r"STACK:(\d+)", usage),
        spill_instructions=len(re.findall(r"\b(?:LDL|STL)\b", sass)),
        shared_bytes=built.metadata.shared,
        sass=sass,
    )


def specialize(launch: Launch) -> tuple[dict[str, str], dict[tuple[int, ...], Any], dict[tuple[int, ...], Any]]:
    """Signature, constants and alignment that Triton would find at the launch of these arguments."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for place, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1):
            signature[parameter.name], constants[(place,)] = "constexpr", value
            continue
        signature[parameter.name] = _type(value)
        if _is_divisible(value):
            attributes[(place,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        return "*" + POINTERS[str(value.dtype).removeprefix("torch.")]
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _is_divisible(value: Any) -> bool:
    if isinstance(value, Tensor):
        # A tensor without memory stands for one from the allocator, which aligns to more than 16 bytes.
        return value.is_meta or value.data_ptr() % 16 == 0
    return isinstance(value, int) and value % 16 == 0


def _inspect(cubin: bytes) -> tuple[str, str]:
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, sass = (
            subprocess.run(
                [str(tools / "cuobjdump"), option, file.name], check=True, capture_output=True, text=True
            ).stdout
            for option in ("--dump-resource-usage", "-sass")
        )
    return usage, sass


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"cuobjdump's report has no {pattern}: {text[-500:]}")
    return int(found.group(1))
