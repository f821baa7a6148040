"""Which implementation of an op runs: "triton", "cpu" (numba) or "plain" (PyTorch)."""

from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

Backend = Literal["auto", "triton", "cpu", "plain"]
NAMES = ("auto", "triton", "cpu", "plain")
HAS_NUMBA = find_spec("numba") is not None
HAS_TRITON = find_spec("triton") is not None


def choose(backend: Backend, tensor: Tensor) -> str:
    """The backend for tensors like this one; "auto" takes the fastest that runs where they are.

    That is "triton" on CUDA, "cpu" for CPU tensors that numba serves, and "plain" for everything else. Raises
    ValueError for a backend that cannot run there, with what can.
    """
    if backend not in NAMES:
        raise ValueError(f"unknown backend {backend!r}; the backends are {', '.join(NAMES)}")
    device, narrow = tensor.device.type, tensor.dtype is not torch.float64
    if backend == "auto":
        if device == "cuda" and narrow and HAS_TRITON:
            return "triton"
        return "cpu" if device == "cpu" and narrow and HAS_NUMBA else "plain"
    if backend == "triton" and not narrow:
        raise ValueError("backend 'triton' computes in float32; give float64 tensors to backend 'plain' or 'auto'")
    # torch.compile cannot look into triton's settings: what it compiles is refused by triton itself, when it runs.
    if backend == "triton" and device == "cpu" and not torch.compiler.is_compiling() and not is_interpreted():
        raise ValueError("backend 'triton' needs CUDA tensors, or TRITON_INTERPRET=1 before triton is imported")
    if backend == "cpu" and (device != "cpu" or not HAS_NUMBA or not narrow):
        raise ValueError(
            f"backend 'cpu' needs numba and float32, bfloat16 or float16 tensors on the CPU, not {tensor.dtype} on "
            f"{tensor.device}: use backend 'auto'"
        )
    return backend


def is_interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on CPU tensors."""
    from triton import knobs

    return bool(knobs.runtime.interpret)
