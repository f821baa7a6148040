"""The rate that MFU is a share of: a device's published peak, or where none is published what it was measured to do."""

import time
from functools import cache

import torch

PEAKS: dict[str, dict[torch.dtype, float]] = {
    # Dense products, without the doubling that makers give for sparse ones; the longest name that occurs is taken.
    "GB200": {torch.bfloat16: 2.5e15, torch.float32: 80e12},
    "B200": {torch.bfloat16: 2.25e15, torch.float32: 75e12},
    "GH200": {torch.bfloat16: 989.4e12, torch.float32: 66.9e12},
    "H200": {torch.bfloat16: 989.4e12, torch.float32: 66.9e12},
    "H100 NVL": {torch.bfloat16: 835.5e12, torch.float32: 60e12},
    "H100 PCIe": {torch.bfloat16: 756e12, torch.float32: 51.2e12},
    "H100": {torch.bfloat16: 989.4e12, torch.float32: 66.9e12},
    "H800": {torch.bfloat16: 989.4e12, torch.float32: 66.9e12},
    "H20": {torch.bfloat16: 148e12, torch.float32: 44e12},
    "A100": {torch.bfloat16: 312e12, torch.float32: 19.5e12},
    "A800": {torch.bfloat16: 312e12, torch.float32: 19.5e12},
    "A10G": {torch.bfloat16: 70e12, torch.float32: 35e12},
    "A10": {torch.bfloat16: 125e12, torch.float32: 31.2e12},
    "A40": {torch.bfloat16: 149.7e12, torch.float32: 37.4e12},
    "RTX A6000": {torch.bfloat16: 154.8e12, torch.float32: 38.7e12},
    "L40S": {torch.bfloat16: 362e12, torch.float32: 91.6e12},
    "L40": {torch.bfloat16: 181e12, torch.float32: 90.5e12},
    "L4": {torch.bfloat16: 121e12, torch.float32: 30.3e12},
    "RTX 4090": {torch.bfloat16: 165.2e12, torch.float32: 82.6e12},
    "RTX 3090": {torch.bfloat16: 71e12, torch.float32: 35.6e12},
    "MI250X": {torch.bfloat16: 383e12, torch.float32: 95.7e12},
    "MI300X": {torch.bfloat16: 1307.4e12, torch.float32: 163.4e12},
}
"""Operations a second by the maker's data sheet, by a part of the name that torch gives and the compute type."""


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second that a device can do at most in a type; measured where its maker's number is not known here.

    float32 on a GPU means products without TensorFloat32; where that is allowed the share may pass 1.
    """
    if device.type == "cuda" and (published := published_flops(torch.cuda.get_device_name(device), dtype)):
        return published
    return measured_flops(device, dtype)


def published_flops(name: str, dtype: torch.dtype) -> float | None:
    """The data sheet's number for a device of this name; None where it is not known."""
    words = f" {name.replace('-', ' ')} "
    # Whole words: "L4" is no "L40S", and "A100-SXM4-80GB" is an A100.
    found = [part for part in PEAKS if f" {part} " in words]
    return PEAKS[max(found, key=len)].get(dtype) if found else None


@cache
def measured_flops(device: torch.device, dtype: torch.dtype, *, seconds: float = 0.4) -> float:
    """Operations a second of the best of several large matrix products in about so many seconds; once a process."""
    size = 1024 if device.type == "cpu" else 8192
    a = torch.ones(size, size, dtype=dtype, device=device)
    best, end = float("inf"), time.perf_counter() + seconds
    _timed_product(a)
    while time.perf_counter() < end:
        best = min(best, _timed_product(a))
    return 2 * size**3 / (best if best < float("inf") else _timed_product(a))


def _timed_product(a: torch.Tensor) -> float:
    start = time.perf_counter()
    torch.mm(a, a)
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - start
