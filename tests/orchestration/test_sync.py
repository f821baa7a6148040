import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import yaml
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from more4d_orchestration.assets import build_assets
from more4d_orchestration.launcher import LocalLauncher
from more4d_orchestration.manifest import load_pipeline
from more4d_orchestration.sync import build_sensor, sync

if TYPE_CHECKING:
    from tests.orchestration.conftest import Miniature


def _version(instance: dg.DagsterInstance, name: str) -> str:
    """Data version of the asset's last event."""
    event = instance.get_latest_materialization_event(dg.AssetKey(name))
    assert event is not None and event.asset_materialization is not None
    return (event.asset_materialization.tags or {})["dagster/data_version"]


def _stale(miniature: "Miniature", instance: dg.DagsterInstance) -> set[str]:
    """Assets that the UI would show as stale, or as never materialized."""
    definitions = dg.Definitions(build_assets(load_pipeline(miniature.root)), resources={"launcher": LocalLauncher()})
    graph = definitions.resolve_asset_graph()
    from dagster._core.definitions.data_version import StaleStatus
    from dagster._core.loader import LoadingContextForTest

    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    names = [key.to_user_string() for key in graph.get_all_asset_keys()]
    return {name for name in names if resolver.get_status(dg.AssetKey(name)) != StaleStatus.FRESH}


def test_after_repro_the_versions_are_the_hashes_in_dvc_lock_and_nothing_is_stale(
    miniature: "Miniature", instance: dg.DagsterInstance
) -> None:
    miniature.dvc("repro")
    assert sync(load_pipeline(miniature.root), instance) == ["numbers", "squares", "total"]
    assert _version(instance, "numbers") == miniature.md5("numbers", "data/numbers")
    assert _version(instance, "squares") == miniature.md5("squares", "data/squares")
    assert _version(instance, "total") == miniature.md5("total", "results/total.json")
    assert _stale(miniature, instance) == set()


def test_what_dagster_knows_is_not_reported_again(miniature: "Miniature", instance: dg.DagsterInstance) -> None:
    miniature.materialize(instance)
    assert sync(load_pipeline(miniature.root), instance) == []
    miniature.set("squares", power=3)
    miniature.dvc("repro")
    assert sync(load_pipeline(miniature.root), instance) == ["squares", "total"]
    assert sync(load_pipeline(miniature.root), instance) == []


def test_a_stage_that_was_never_run_is_not_reported(miniature: "Miniature", instance: dg.DagsterInstance) -> None:
    assert sync(load_pipeline(miniature.root), instance) == []
    miniature.dvc("repro", "numbers")
    assert sync(load_pipeline(miniature.root), instance) == ["numbers"]


def test_staleness_in_dagster_is_what_dvc_would_rerun(miniature: "Miniature", instance: dg.DagsterInstance) -> None:
    miniature.materialize(instance)
    assert _stale(miniature, instance) == set()
    miniature.set("squares", power=3)
    assert _stale(miniature, instance) == {"squares", "total"}
    assert set(yaml.safe_load(miniature.dvc("status", "--json"))) == {"squares"}


def test_a_stage_in_a_running_run_is_left_to_that_run(miniature: "Miniature", instance: dg.DagsterInstance) -> None:
    miniature.dvc("repro")
    pipeline = load_pipeline(miniature.root)
    definitions = dg.Definitions(build_assets(pipeline), resources={"launcher": LocalLauncher()})
    job = definitions.resolve_implicit_global_asset_job_def()
    selection = frozenset([dg.AssetKey("squares")])
    run = instance.create_run_for_job(
        job.get_subset(asset_selection=set(selection)), asset_selection=selection, status=dg.DagsterRunStatus.STARTED
    )
    assert sync(pipeline, instance) == ["numbers", "total"]
    instance.report_run_canceled(run)
    assert sync(pipeline, instance) == ["squares"]


def test_the_sensor_is_on_and_reports_each_new_version_once(
    miniature: "Miniature", instance: dg.DagsterInstance
) -> None:
    sensor = build_sensor(miniature.root, "dvc.yaml", "dvc_lock", 30)
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    miniature.dvc("repro")
    context = dg.build_sensor_context(instance=instance)
    events = sensor(context).asset_events  # pyright: ignore
    assert [event.asset_key.to_user_string() for event in events] == ["numbers", "squares", "total"]
    for event in events:
        instance.report_runless_asset_event(event)
    assert sensor(context).asset_events == []  # pyright: ignore


def test_the_command_reports_to_dagster_home(miniature: "Miniature", tmp_path: Path) -> None:
    miniature.dvc("repro")
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    command = [sys.executable, "-m", "more4d_orchestration.sync", "--root", str(miniature.root)]
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    first = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "reported: numbers, squares, total" in first.stderr
    second = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "reported: nothing" in second.stderr
    environment.pop("DAGSTER_HOME")
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "DAGSTER_HOME" in refused.stderr
