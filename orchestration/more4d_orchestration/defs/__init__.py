"""Definitions that Dagster loads: the lineage, and where its stages run."""
