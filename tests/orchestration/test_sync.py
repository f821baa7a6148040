from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest
import typer
import yaml
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from more4d_orchestration.assets import build_assets
from more4d_orchestration.launcher import LocalLauncher
from more4d_orchestration.manifest import load_pipeline
from more4d_orchestration.sync import build_sensor, main, sync

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


def test_what_is_stale_in_dagster_is_what_has_changed_for_dvc(
    miniature: "Miniature", instance: dg.DagsterInstance
) -> None:
    miniature.materialize(instance)
    assert _stale(miniature, instance) == set()
    miniature.set("squares", power=3)
    assert _stale(miniature, instance) == set(yaml.safe_load(miniature.dvc("status", "--json"))) == {"squares"}
    miniature.materialize(instance, ["squares"])
    assert _stale(miniature, instance) == set(yaml.safe_load(miniature.dvc("status", "--json"))) == {"total"}


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


def test_the_command_reports_to_dagster_home(
    miniature: "Miniature", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    miniature.dvc("repro")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    with caplog.at_level("INFO", "more4d_orchestration.sync"):
        main(miniature.root)
        main(miniature.root)
    messages = [record.message for record in caplog.records if record.name == "more4d_orchestration.sync"]
    assert messages[0] == "reported: numbers, squares, total"
    assert messages[1].startswith("reported: nothing")


def test_the_command_asks_for_dagster_home(miniature: "Miniature", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with pytest.raises(typer.BadParameter, match="DAGSTER_HOME"):
        main(miniature.root)
