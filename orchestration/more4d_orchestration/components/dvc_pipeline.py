"""A component that turns a dvc.yaml into Dagster assets, as dagster-dbt turns a manifest into assets."""

import dagster as dg

from more4d_orchestration.assets import build_assets
from more4d_orchestration.manifest import load_pipeline
from more4d_orchestration.sync import build_sensor


class DvcPipelineComponent(dg.Component, dg.Resolvable, dg.Model):
    """The stages of a dvc.yaml as assets, and a sensor that follows dvc.lock. The project adds a `launcher` resource."""

    root: str = "."
    """The DVC workspace, relative to the dg project."""
    dvc_yaml: str = "dvc.yaml"
    """The pipeline file, relative to the workspace."""
    sensor_name: str = "dvc_lock"
    sensor_seconds: int = 30

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Assets, checks and the sensor. Raises ValueError when dvc.yaml, its workspace or a `meta.dagster` is wrong."""
        root = (context.project_root / self.root).resolve()
        sensor = build_sensor(root, self.dvc_yaml, self.sensor_name, self.sensor_seconds)
        return dg.Definitions(assets=build_assets(load_pipeline(root, self.dvc_yaml)), sensors=[sensor])
