"""Dagster over DVC: the stages of a dvc.yaml as assets."""
