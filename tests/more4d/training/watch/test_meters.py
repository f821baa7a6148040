import time

import pytest
import torch
from more4d.training.watch.meters import Meter, peak_memory
from more4d.training.watch.peak import PEAKS, measured_flops, peak_flops, published_flops

CPU = torch.device("cpu")


def test_a_reading_is_what_happened_since_the_last_one() -> None:
    meter = Meter(tokens=100, flops=10**9, batch_size=4, device=CPU, ranks=2, peak=1e10)
    for seconds, waited in ((0.5, 0.1), (1.5, 0.3)):
        meter.waited(waited)
        meter.step(seconds)
    found = meter.read()
    assert found["samples_per_second"] == pytest.approx(4.0)
    assert found["tokens_per_second"] == pytest.approx(400.0)
    assert found["seconds_per_step"] == pytest.approx(1.0)
    assert found["data_wait_share"] == pytest.approx(0.2)
    # 4 samples a second of 1e9 operations on two devices of 1e10.
    assert found["mfu"] == pytest.approx(0.2)
    assert meter.read() == {}
    meter.step(2.0)
    assert meter.read()["samples_per_second"] == pytest.approx(2.0)


def test_what_is_not_known_is_not_reported() -> None:
    meter = Meter(tokens=0, flops=0, batch_size=1, device=CPU)
    meter.step(1.0)
    assert set(meter.read()) == {"samples_per_second", "seconds_per_step", "data_wait_share", "memory_bytes"}


def test_a_matrix_product_reaches_a_good_part_of_the_rate_measured_on_a_cpu() -> None:
    a = torch.ones(1024, 1024)
    meter = Meter(tokens=0, flops=2 * 1024**3, batch_size=1, device=CPU)
    assert peak_flops(CPU, torch.float32) == measured_flops(CPU, torch.float32) > 1e9
    for _ in range(5):
        start = time.perf_counter()
        a = a @ torch.eye(1024)
        meter.step(time.perf_counter() - start)
    # Wide: other processes may take the cores between the two measurements.
    assert 0.01 < meter.read()["mfu"] < 3


def test_memory_of_a_process_grows_with_what_it_holds() -> None:
    before = peak_memory(CPU)
    held = torch.ones(64 * 2**20)
    assert peak_memory(CPU) >= max(before, held.numel() * 4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GH200 480GB", 989.4e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_peaks_are_found_by_the_names_that_torch_gives(name: str, expected: float | None) -> None:
    assert published_flops(name, torch.bfloat16) == expected


def test_every_device_is_faster_in_half_precision() -> None:
    assert all(peaks[torch.bfloat16] > peaks[torch.float32] for peaks in PEAKS.values())
    assert published_flops("NVIDIA H200", torch.float64) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_memory_of_a_gpu_is_that_since_the_last_reading() -> None:
    device = torch.device("cuda")
    peak_memory(device)
    held = torch.ones(2**20, device=device)
    assert peak_memory(device) >= 4 * held.numel()
