"""The lineage's stages: each one object with its parameters, inputs, outputs and `run`."""
