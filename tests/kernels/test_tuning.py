import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from more4d_kernels import tuning
from more4d_kernels.launch import Launch, Setting
from more4d_kernels.tuning import tuned

CPU = torch.device("cpu")
CANDIDATES = tuple(Setting(warps) for warps in (4, 8, 16))


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MORE4D_KERNELS_CACHE", str(tmp_path / "cache"))
    forget(monkeypatch)
    yield tmp_path / "cache" / "settings.json"


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new process begins."""
    monkeypatch.setattr(tuning, "_remembered", {})


def launch(setting: Setting) -> Launch:
    return Launch(None, (1,), {}, setting.num_warps)


def taking(seconds: dict[int, float]) -> tuple[Callable[[Launch], float], list[int]]:
    """A clock that shows these seconds for these warps, and the launches it was asked for."""
    asked: list[int] = []

    def measure(launch: Launch) -> float:
        asked.append(launch.num_warps)
        return seconds[launch.num_warps]

    return measure, asked


def test_the_fastest_candidate_is_taken_and_never_measured_again(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    measure, asked = taking({4: 3.0, 8: 1.0, 16: 2.0})
    assert tuned("a", CPU, CANDIDATES, launch, measure) == Setting(8)
    forget(monkeypatch)
    assert tuned("a", CPU, CANDIDATES, launch, measure) == Setting(8)
    assert asked == [4, 8, 16]
    (device,) = json.loads(file.read_text()).items()
    assert device[0].startswith("cpu, triton") and device[1]["a"]["num_warps"] == 8


def test_another_shape_is_measured_for_itself(file: Path) -> None:
    tuned("a", CPU, CANDIDATES, launch, taking({4: 1.0, 8: 2.0, 16: 3.0})[0])
    assert tuned("b", CPU, CANDIDATES, launch, taking({4: 2.0, 8: 3.0, 16: 1.0})[0]) == Setting(16)
    assert sorted(next(iter(json.loads(file.read_text()).values()))) == ["a", "b"]


def test_a_candidate_that_does_not_fit_the_device_is_passed_over() -> None:
    from triton.runtime.errors import OutOfResources

    def measure(launch: Launch) -> float:
        if launch.num_warps != 16:
            raise OutOfResources(200, 100, "shared memory")
        return 1.0

    assert tuned("a", CPU, CANDIDATES, launch, measure) == Setting(16)


@pytest.mark.parametrize("content", ["{", "[]", '{"cpu": {"a": {"threads": 1}}}', "\x00"])
def test_a_damaged_file_is_said_and_replaced(content: str, file: Path) -> None:
    file.parent.mkdir()
    file.write_text(content)
    with pytest.warns(UserWarning, match="measured again"):
        assert tuned("a", CPU, CANDIDATES, launch, taking({4: 2.0, 8: 1.0, 16: 3.0})[0]) == Setting(8)
    assert "a" in next(iter(json.loads(file.read_text()).values()))


def test_a_folder_that_cannot_be_written_is_said(file: Path) -> None:
    file.parent.write_text("in the way")
    with pytest.warns(UserWarning, match="cannot be written"):
        assert tuned("a", CPU, CANDIDATES, launch, taking({4: 2.0, 8: 1.0, 16: 3.0})[0]) == Setting(8)


def test_measuring_can_be_switched_off_but_not_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, asked = taking({4: 2.0, 8: 1.0, 16: 3.0})
    tuned("known", CPU, CANDIDATES, launch, measure)
    forget(monkeypatch)
    monkeypatch.setenv("MORE4D_KERNELS_TUNE", "0")
    assert tuned("known", CPU, CANDIDATES, launch, measure) == Setting(8)
    assert tuned("new", CPU, CANDIDATES, launch, measure) == Setting(4)
    assert asked == [4, 8, 16]


def test_without_a_gpu_the_first_candidate_runs_and_no_file_is_made(file: Path) -> None:
    assert tuned("a", CPU, CANDIDATES, launch) == Setting(4)
    assert not file.exists()


def test_all_candidates_failing_still_names_one() -> None:
    def measure(launch: Launch) -> float:
        return math.inf

    assert tuned("a", CPU, CANDIDATES, launch, measure) in CANDIDATES


def test_what_a_shape_depends_on_is_in_its_name() -> None:
    from more4d_kernels.madanorm.gpu import _shape
    from more4d_kernels.madanorm.problem import Problem

    def problem(**changed: Any) -> Problem:
        x = torch.zeros(1, 6, 8)
        rows = {"time_scale": x[:, 0], "time_shift": x[:, 0]}
        motion = {"motion_scale": x[:, :2], "motion_shift": x[:, :2], "gate": x[0, 0]}
        return Problem(**{"x": x, **rows, **motion, "frames": 3, **changed})

    wide = torch.zeros(1, 6, 16)
    variants = (
        problem(), problem(x=wide), problem(x=torch.zeros(1, 6, 8, dtype=torch.bfloat16)), problem(frames=1, prefix=4),
        problem(time_scale=None, time_shift=None), problem(update=torch.zeros(1, 6, 8)),
    )  # fmt: skip
    assert len({_shape("forward", variant) for variant in variants} | {_shape("backward", variants[0])}) == 7


def test_a_stored_setting_that_is_no_candidate_is_measured_anew(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    file.parent.mkdir()
    file.write_text(json.dumps({tuning.device_name(CPU): {"a": {"num_warps": 3}}}))
    assert tuned("a", CPU, CANDIDATES, launch, taking({4: 2.0, 8: 1.0, 16: 3.0})[0]) == Setting(8)
