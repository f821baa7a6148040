"""Tells Dagster what dvc.lock says: after `dvc repro` or `dvc pull` in a terminal the assets show the new versions.

`python -m more4d_orchestration.sync` once, or the sensor of the component every half minute.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import dagster as dg
import typer
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    INPUT_DATA_VERSION_TAG_PREFIX,
    INPUT_EVENT_POINTER_TAG_PREFIX,
)
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES

from more4d_orchestration.assets import asset_key
from more4d_orchestration.manifest import Pipeline, StageNode, load_pipeline
from more4d_orchestration.report import StageReport
from more4d_orchestration.workspace import LockEntry, read_lock

log = logging.getLogger(__name__)


def missing_events(pipeline: Pipeline, instance: dg.DagsterInstance) -> list[dg.AssetMaterialization]:
    """A materialization for each stage whose versions in dvc.lock are not those of its last event, upstream first.

    A stage that a run is working on is left to that run.
    """
    entries, busy = read_lock(pipeline), _busy(pipeline, instance)
    return [
        _event(pipeline, node, entries, instance)
        for name, node in pipeline.stages.items()
        if name in entries and name not in busy and _versions(instance, name) != _locked(entries[name])
    ]


def _locked(entry: LockEntry) -> tuple[str | None, str | None]:
    return entry.data_version, entry.recipe.version


def _versions(instance: dg.DagsterInstance, name: str) -> tuple[str | None, str | None]:
    """Data and code version of the asset's last event."""
    event = instance.get_latest_materialization_event(asset_key(name))
    tags = (event.asset_materialization.tags or {}) if event and event.asset_materialization else {}
    return tags.get(DATA_VERSION_TAG), tags.get(CODE_VERSION_TAG)


def _busy(pipeline: Pipeline, instance: dg.DagsterInstance) -> set[str]:
    """Stages that a queued or running run has selected; a run without a selection has all."""
    busy: set[str] = set()
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=IN_PROGRESS_RUN_STATUSES)):
        keys = run.asset_selection
        busy |= {name for name in pipeline.stages if keys is None or asset_key(name) in keys}
    return busy


def _event(
    pipeline: Pipeline, node: StageNode, entries: Mapping[str, LockEntry], instance: dg.DagsterInstance
) -> dg.AssetMaterialization:
    """The event that a run of the asset would have left, so that Dagster's staleness is right."""
    entry = entries[node.name]
    tags = {
        DATA_VERSION_TAG: entry.data_version,
        DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
        CODE_VERSION_TAG: entry.recipe.version,
    }
    for name in node.upstream:
        if name in entries:
            user_string = asset_key(name).to_user_string()
            record = instance.get_latest_data_version_record(asset_key(name))
            tags[f"{INPUT_DATA_VERSION_TAG_PREFIX}/{user_string}"] = entries[name].data_version
            tags[f"{INPUT_EVENT_POINTER_TAG_PREFIX}/{user_string}"] = str(record.storage_id) if record else "NULL"
    metadata = StageReport(pipeline.root, node, entry).metadata()
    return dg.AssetMaterialization(
        asset_key(node.name), description="recorded in dvc.lock outside Dagster", metadata=metadata, tags=tags
    )


def sync(pipeline: Pipeline, instance: dg.DagsterInstance) -> list[str]:
    """Names of the stages reported to `instance`; the second call in a row reports none."""
    events = missing_events(pipeline, instance)
    for event in events:
        instance.report_runless_asset_event(event)
    return [event.asset_key.to_user_string() for event in events]


def build_sensor(root: Path, dvc_yaml: str, name: str, seconds: int) -> dg.SensorDefinition:
    """A sensor, on by default, that reports what dvc.lock says and Dagster does not know yet."""

    @dg.sensor(name=name, minimum_interval_seconds=seconds, default_status=dg.DefaultSensorStatus.RUNNING)
    def lock_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """Reports stages that `dvc repro` or `dvc pull` recorded in dvc.lock."""
        return dg.SensorResult(asset_events=missing_events(load_pipeline(root, dvc_yaml), context.instance))

    return lock_sensor


def main(
    root: Annotated[Path, typer.Option(help="the workspace", envvar="MORE4D_ROOT")] = Path(),
    dvc_yaml: Annotated[str, typer.Option(help="relative to the workspace")] = "dvc.yaml",
) -> None:
    """Report the stages of dvc.lock that Dagster does not know yet. Needs DAGSTER_HOME."""
    if not os.environ.get("DAGSTER_HOME"):
        raise typer.BadParameter("DAGSTER_HOME is not set; `make ui` uses .dagster")
    with dg.DagsterInstance.get() as instance:
        reported = sync(load_pipeline(root, dvc_yaml), instance)
    log.info("reported: %s", ", ".join(reported) or "nothing, Dagster knows all of dvc.lock")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    typer.run(main)
