import subprocess
import sys
from typing import Any

import pytest
import torch
from more4d_kernels.launch import Launch, contiguous_rows, streaming_multiprocessors


class Kernel(dict[tuple[int, ...], Any]):
    """Notes what it is started with."""

    def __missing__(self, grid: tuple[int, ...]) -> Any:
        return lambda **arguments: self.update({grid: arguments})


def test_a_launch_starts_its_kernel_once_with_its_arguments() -> None:
    kernel, x = Kernel(), torch.ones(3)
    Launch(kernel, (2, 3), {"x": x, "D": 5}, num_warps=8).run()
    assert kernel == {(2, 3): {"x": x, "D": 5, "num_warps": 8, "enable_fp_fusion": True}}


@pytest.mark.parametrize("grid", [(0, 1), (3, 0)])
def test_a_grid_with_nothing_in_it_is_not_started(grid: tuple[int, ...]) -> None:
    kernel = Kernel()
    Launch(kernel, grid, {"x": torch.ones(3)}, num_warps=8).run()
    assert not kernel


def test_changed_arguments_leave_the_first_launch_as_it_was() -> None:
    first = Launch(Kernel(), (1,), {"x": torch.ones(3), "D": 5}, num_warps=4)
    assert first.with_arguments(D=7).arguments["D"] == 7 and first.arguments["D"] == 5


def test_rows_whose_values_follow_each_other_are_not_copied() -> None:
    rows = torch.arange(24.0).view(2, 3, 4)
    for kept in (rows, rows[:, 1:, :2], rows[:1].expand(5, 3, 4), rows.transpose(0, 1), rows[..., :1]):
        assert contiguous_rows(kept) is kept
    for copied in (rows[..., ::2], rows.transpose(1, 2)):
        assert contiguous_rows(copied).stride(-1) == 1 and torch.equal(contiguous_rows(copied), copied)


def test_work_is_split_without_a_gpu_too() -> None:
    assert streaming_multiprocessors(torch.device("cpu")) > 1
    assert streaming_multiprocessors(torch.device("meta")) == 132


def test_importing_ops_and_launches_imports_no_compiler() -> None:
    code = (
        "import sys, more4d_kernels.madanorm.gpu, more4d_kernels.ahead_of_time\n"
        "assert not {'triton', 'numba'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
