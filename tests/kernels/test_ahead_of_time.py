import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from more4d_kernels.ahead_of_time import Compiled, compile_launch, specialize
from more4d_kernels.launch import Launch
from more4d_kernels.madanorm import gpu
from more4d_kernels.madanorm.problem import Problem, empty_outputs

Report = dict[str, Any]
SHARED_KIB = {80: 163, 90: 227, 100: 227}
"""What one block may have."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[Report]:
    """The compiler's report of every kernel."""
    folder = tmp_path_factory.mktemp("compiled")
    script = Path(__file__).with_name("compile_launches.py")
    changed = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(script), str(folder / "reports.json")], env=os.environ | changed, check=True)
    return json.loads((folder / "reports.json").read_text())


def failing(reports: list[Report], holds: Callable[[Report], bool]) -> list[Report]:
    assert reports
    return [report for report in reports if not holds(report)]


def test_every_kernel_is_compiled_for_every_gpu_and_width(reports: list[Report]) -> None:
    compiled = {(report["name"], report["capability"], report["width"]) for report in reports}
    norms = {(f"{op}_kernel", c, width) for op in ("forward", "backward") for c in SHARED_KIB for width in (1536, 5120)}
    names = ("normalize", "normalize_backward", "denormalize", "denormalize_backward")
    assert compiled == norms | {(f"{name}_kernel", c, 0) for name in names for c in SHARED_KIB}


def test_no_kernel_spills_a_register(reports: list[Report]) -> None:
    assert not failing(reports, lambda r: r["spill_instructions"] == 0 and r["stack_bytes"] == 0)


def test_registers_of_a_block_fit_a_multiprocessor(reports: list[Report]) -> None:
    assert not failing(reports, lambda r: 0 < r["registers"] * 32 * r["num_warps"] <= 65536)


def test_shared_memory_of_a_block_fits(reports: list[Report]) -> None:
    assert not failing(reports, lambda r: r["shared_bytes"] <= SHARED_KIB[r["capability"]] * 1024)


def test_norms_load_rows_by_16_bytes(reports: list[Report]) -> None:
    def holds(report: Report) -> bool:
        # The rest are a row's second piece, which gives a thread fewer values, and a mean and rstd a row.
        loads = report["global_loads"]
        return sum(load for load in loads if load >= 16) >= sum(loads) * 2 / 3

    assert not failing([r for r in reports if r["op"] != "depth"], holds)


def test_points_are_loaded_by_16_bytes(reports: list[Report]) -> None:
    assert not failing([r for r in reports if r["op"] == "depth"], lambda r: max(r["global_loads"]) >= 16)


@pytest.mark.parametrize(
    ("line", "width"),
    [
        ("LDG.E R4, desc[UR6][R2.64] ;", 4),
        ("LDG.E.U16 R4, desc[UR6][R2.64] ;", 2),
        ("LDG.E.U8.CONSTANT R4, [R2.64] ;", 1),
        ("LDG.E.64 R4, desc[UR6][R2.64] ;", 8),
        ("@!P0 LDG.E.128.CONSTANT R4, desc[UR6][R2.64] ;", 16),
        ("LDG.E.LTC128B R4, desc[UR6][R2.64] ;", 4),
        ("LDGSTS.E [R7], desc[UR6][R2.64] ;", 4),
        ("LDGSTS.E.BYPASS.128 [R7+0x800], desc[UR6][R2.64] ;", 16),
        ("STG.E.128 desc[UR6][R2.64], R4 ; LDS.128 R4, [R2] ;", 0),
    ],
)
def test_width_of_a_load_is_read_from_its_name(line: str, width: int) -> None:
    assert Compiled("kernel", 90, 32, 0, 0, 0, f"/*0010*/ {line}").global_loads() == ([width] if width else [])


def test_every_load_counts() -> None:
    sass = "LDG.E.64 R4, [R2] ;\nLDG.E.128 R4, [R2] ;\nLDG.E R4, [R2] ;"
    assert Compiled("kernel", 90, 32, 0, 0, 0, sass).global_loads() == [8, 16, 4]


def small() -> Launch:
    """With the kernel as it is where it is compiled."""
    from triton import JITFunction

    x = torch.empty(1, 6, 33, dtype=torch.bfloat16, device="meta")
    made = Problem(x, *(torch.empty(1, 33, device="meta") for _ in range(2)), prefix=6)
    launch = gpu.forward_launch(made, empty_outputs(made), gpu.forward_settings(made)[0])
    return replace(launch, kernel=JITFunction(launch.kernel.fn))


def test_a_launch_is_specialised_as_triton_does_it_when_it_runs() -> None:
    launch = small()
    signature, constants, attributes = specialize(launch)
    place = {parameter.name: i for i, parameter in enumerate(launch.kernel.params)}
    assert signature["x"] == "*bf16" and signature["mean_out"] == "*fp32" and signature["eps"] == "fp32"
    assert signature["tokens"] == "i32" and signature["D"] == "constexpr" and constants[(place["D"],)] == 33
    # 1 is a constant; 0 and multiples of 16 are known to divide, 33 is not.
    assert signature["frames"] == "constexpr" and constants[(place["frames"],)] == 1
    assert (place["positions"],) in attributes and (place["x_row"],) not in attributes
    assert attributes[(place["x"],)] == [["tt.divisibility", 16]]


def test_strides_past_2_31_are_64_bit() -> None:
    signature, _, _ = specialize(small().with_arguments(x_row=2**31))
    assert signature["x_row"] == "i64"


def test_kernels_imported_for_the_interpreter_are_refused() -> None:
    from more4d_kernels.madanorm.kernel import forward_kernel

    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        compile_launch(replace(small(), kernel=forward_kernel), 90)
