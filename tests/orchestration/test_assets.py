import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from more4d_orchestration.assets import build_assets
from more4d_orchestration.manifest import load_pipeline
from more4d_orchestration.sync import sync

if TYPE_CHECKING:
    from tests.orchestration.conftest import Miniature


def _versions(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """Asset -> the data version that the run reported."""
    events = [event.materialization for event in result.get_asset_materialization_events()]
    return {event.asset_key.to_user_string(): (event.tags or {})["dagster/data_version"] for event in events}


def _ran(result: dg.ExecuteInProcessResult) -> set[str]:
    events = [event.materialization for event in result.get_asset_materialization_events()]
    return {event.asset_key.to_user_string() for event in events if event.metadata["ran"].value}


def _files(root: Path) -> dict[str, bytes]:
    """Every file that the stages made."""
    folders = ("data", "metrics", "plots", "results")
    files = [file for name in folders for file in (root / name).rglob("*") if file.is_file()]
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in files}


def test_assets_have_the_edges_groups_owners_and_checks_of_dvc_yaml(miniature: "Miniature") -> None:
    assets = build_assets(load_pipeline(miniature.root))
    specs = {spec.key.to_user_string(): spec for asset in assets for spec in asset.specs}
    edges = {name: [dep.asset_key.to_user_string() for dep in spec.deps] for name, spec in specs.items()}
    assert edges == {"numbers": [], "squares": ["numbers"], "total": ["squares"]}
    assert specs["numbers"].group_name == "data" and list(specs["numbers"].owners) == ["team:counting"]
    assert specs["numbers"].kinds == {"python"}
    assert (specs["numbers"].description or "").startswith("The first numbers: small ones.")
    assert {check.name: check.blocking for check in assets[1].check_specs} == {"not_empty": True, "learned": True}
    assert assets[1].op.pool == "compute"


FOREACH = """
  copy:
    foreach: [a, b]
    do: {cmd: "cp code/total.py ${item}.txt", deps: [code/total.py], outs: ["${item}.txt"]}
  join:
    cmd: cat a.txt b.txt > joined.txt
    deps: [a.txt, b.txt]
    outs: [joined.txt]
"""


def test_stages_of_a_foreach_are_assets_of_their_own(miniature: "Miniature", instance: dg.DagsterInstance) -> None:
    (miniature.root / "dvc.yaml").write_text((miniature.root / "dvc.yaml").read_text() + FOREACH)
    result = miniature.materialize(instance, ["copy/a", "copy/b", "join"])
    assert result.success and _versions(result)["copy/a"] == miniature.md5("copy@a", "a.txt")
    assert sync(load_pipeline(miniature.root), instance) == []


def test_after_a_materialization_dvc_is_clean_and_repro_runs_nothing(
    miniature: "Miniature", instance: dg.DagsterInstance
) -> None:
    result = miniature.materialize(instance)
    assert result.success and _ran(result) == {"numbers", "squares", "total"}
    assert "up to date" in miniature.dvc("status")
    assert "Running" not in miniature.dvc("repro")


def test_data_versions_are_the_hashes_in_dvc_lock(miniature: "Miniature", instance: dg.DagsterInstance) -> None:
    assert _versions(miniature.materialize(instance)) == {
        "numbers": miniature.md5("numbers", "data/numbers"),
        "squares": miniature.md5("squares", "data/squares"),
        "total": miniature.md5("total", "results/total.json"),
    }


def test_unchanged_stages_are_not_run_again_and_keep_their_version(
    miniature: "Miniature", instance: dg.DagsterInstance
) -> None:
    miniature.dvc("repro")
    before = (miniature.root / "dvc.lock").read_bytes()
    result = miniature.materialize(instance)
    assert result.success and _ran(result) == set()
    assert _versions(result)["numbers"] == miniature.md5("numbers", "data/numbers")
    assert (miniature.root / "dvc.lock").read_bytes() == before


def test_a_changed_parameter_reruns_its_stage_and_what_its_data_changes(
    miniature: "Miniature", instance: dg.DagsterInstance
) -> None:
    miniature.materialize(instance)
    miniature.set("squares", power=3)
    assert _ran(miniature.materialize(instance)) == {"squares", "total"}
    (miniature.root / "code" / "squares.py").write_text((miniature.root / "code" / "squares.py").read_text() + "\n")
    assert _ran(miniature.materialize(instance)) == {"squares"}


def test_a_materialization_and_repro_give_the_same_bytes(miniature: "Miniature", instance: dg.DagsterInstance) -> None:
    miniature.materialize(instance)
    lock, files = (miniature.root / "dvc.lock").read_bytes(), _files(miniature.root)
    (miniature.root / "dvc.lock").unlink()
    miniature.dvc("repro", "--force")
    assert len(files) == 5 and _files(miniature.root) == files
    assert (miniature.root / "dvc.lock").read_bytes() == lock


def test_metadata_shows_outputs_metrics_and_the_training_curve(
    miniature: "Miniature", instance: dg.DagsterInstance
) -> None:
    result = miniature.materialize(instance)
    metadata = {
        event.materialization.asset_key.to_user_string(): event.materialization.metadata
        for event in result.get_asset_materialization_events()
    }
    assert metadata["numbers"]["metric/count"].value == 5.0
    assert str(metadata["squares"]["curve/plots/squares.csv"].value).startswith("![loss over step](data:image/png")
    assert metadata["total"]["seconds"].value >= 0


def test_a_failing_stage_fails_its_asset_with_its_output_and_leaves_dvc_lock(
    miniature: "Miniature", instance: dg.DagsterInstance
) -> None:
    miniature.materialize(instance)
    before = miniature.lock()
    miniature.set("squares", fail=True)
    result = miniature.materialize(instance)
    assert not result.success
    failure = result.failure_data_for_node("squares")
    assert failure is not None and failure.error is not None
    assert "the squares went wrong" in failure.error.message and "exit code 1" in failure.error.message
    logged = [record.user_message for record in instance.all_logs(result.run_id)]
    assert "the squares went wrong" in logged
    assert miniature.lock() == before


def test_an_empty_output_fails_its_blocking_check_and_stops_what_follows(
    miniature: "Miniature", instance: dg.DagsterInstance
) -> None:
    miniature.set("numbers", count=0)
    result = miniature.materialize(instance)
    assert not result.success
    failed = [check.check_name for check in result.get_asset_check_evaluations() if not check.passed]
    assert failed == ["not_empty"]
    assert not (miniature.root / "data" / "squares").exists() and "squares" not in miniature.lock()


def test_a_missing_input_is_named(miniature: "Miniature", instance: dg.DagsterInstance) -> None:
    result = miniature.materialize(instance, selection=["total"])
    failure = result.failure_data_for_node("total")
    assert failure is not None and "data/squares" in str(failure.error)


CANCELLED = """
import sys
from pathlib import Path
import dagster as dg
from more4d_orchestration.assets import build_assets
from more4d_orchestration.launcher import LocalLauncher
from more4d_orchestration.manifest import load_pipeline
from more4d_orchestration.sync import sync
assets = build_assets(load_pipeline(Path(sys.argv[1])))
dg.materialize(assets, resources={"launcher": LocalLauncher(grace_seconds=1)})
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_cancelling_ends_the_stages_processes_and_leaves_dvc_lock(miniature: "Miniature", number: int) -> None:
    miniature.dvc("repro")
    before, mark = miniature.lock(), miniature.root / "hanging"
    miniature.set("squares", hang=True)
    run = subprocess.Popen([sys.executable, "-c", CANCELLED, str(miniature.root)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (mark.exists() and len(mark.read_text().split()) == 2) and time.monotonic() < deadline:
            time.sleep(0.05)
        pids = [int(pid) for pid in mark.read_text().split()]
        os.kill(run.pid, number)
        assert run.wait(60) != 0
    finally:
        run.kill()
    deadline = time.monotonic() + 20
    while any(_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_running(pid) for pid in pids)
    assert miniature.lock() == before


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
