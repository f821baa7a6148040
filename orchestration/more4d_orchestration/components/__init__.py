"""Dagster components of this package, found by `dg list components`."""

from more4d_orchestration.components.dvc_pipeline import DvcPipelineComponent

__all__ = ["DvcPipelineComponent"]
