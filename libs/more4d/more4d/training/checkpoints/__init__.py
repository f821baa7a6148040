"""A training's state on disk: atomic, a file a rank, readable on any number of ranks. No pickle."""

from more4d.training.checkpoints.checkpoint import Checkpoint
from more4d.training.checkpoints.export import export_tensors
from more4d.training.checkpoints.fitting import require_same_model
from more4d.training.checkpoints.ranks import OneRank, Ranks
from more4d.training.checkpoints.settings import CheckpointSettings
from more4d.training.checkpoints.store import CheckpointStore

__all__ = [
    "Checkpoint",
    "CheckpointSettings",
    "CheckpointStore",
    "OneRank",
    "Ranks",
    "export_tensors",
    "require_same_model",
]
