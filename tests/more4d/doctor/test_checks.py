import dataclasses
from pathlib import Path

import pytest
from more4d.doctor import checks
from more4d.doctor.estimate import Prediction
from more4d.doctor.machine import Machine, find_machine, measure_rate
from more4d.weights.registry import read_registry

ROOT = Path(__file__).parents[3]
GPU = Machine(
    device="cuda:0", name="a GPU", memory=24 * 10**9, compute_capability="8.9", bf16=True, ram=64 * 10**9,
    ram_available=32 * 10**9, cores=8, threads=8, disk_free=10**12,
)  # fmt: skip


def _prediction(**changes: object) -> Prediction:
    given = Prediction("views", {"vism": 10**9}, 1, 1, {"none": 30 * 10**9, "model": 10 * 10**9}, 1.0, "model")
    return dataclasses.replace(given, **changes)  # type: ignore[arg-type]


def test_this_machine_has_processors_memory_and_a_rate(tmp_path: Path) -> None:
    machine = find_machine(tmp_path / "not" / "there" / "yet")
    assert machine.cores > 0 and machine.ram >= machine.ram_available > 0 and machine.disk_free > 0
    assert measure_rate(machine, seconds=0.05) > 1e9


def test_missing_and_old_packages_are_missing_and_other_versions_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("numpy==0.1\ntorch==9.9\nnot-there-at-all==1.0\n")
    packages, versions = checks.check_packages(constraints)
    assert packages.status == "ok" and versions.status == "note"
    assert "tested with 0.1" in versions.found and "not-there-at-all None" in versions.found
    monkeypatch.setattr("more4d.doctor.checks.requires", lambda _: ["numpy>=999", "not-there-at-all>=1"])
    packages, _ = checks.check_packages(tmp_path / "none.txt")
    assert packages.status == "missing" and packages.todo == "run `make setup`"
    assert "is not >=999" in packages.found and "not-there-at-all is not installed" in packages.found


def test_a_step_that_does_not_fit_says_how_much_it_needs() -> None:
    (check,) = checks.check_fit(GPU, [_prediction(offload=None)], 2)
    assert check.status == "missing" and "needs at least 10.0 GB, cuda:0 has 24.0 GB" in check.todo


def test_offload_needs_room_for_the_weights_in_the_machine() -> None:
    (check,) = checks.check_fit(GPU, [_prediction(parameters={"vism": 40 * 10**9})], 2)
    assert check.status == "missing" and "keeps 80 GB in memory, of which 32 GB are free" in check.found
    (check,) = checks.check_fit(GPU, [_prediction()], 2)
    assert check.status == "ok"


def test_a_disk_too_small_for_what_is_to_be_fetched_is_missing(tmp_path: Path) -> None:
    registry = read_registry(ROOT / "models" / "weights.toml")
    full = dataclasses.replace(GPU, disk_free=10**9)
    check = checks.check_disk(registry, "wan-14b", tmp_path, full)
    assert check.status == "missing" and check.todo.startswith("free 8")
    assert "about 8" in check.found  # Two transformers of 16 and 17 billion in bf16, and the encoders.
    assert checks.check_disk(registry, "wan-14b", tmp_path, GPU).status == "ok"


def test_the_shipped_base_is_ok() -> None:
    check = checks.check_tiny(ROOT / "models" / "tiny-base")
    assert check.status == "ok" and "strag " in check.found
