"""A training's state on disk: atomic, a file a rank, readable on any number of ranks. No pickle.

Each name is imported when it is first asked for, so that the command line starts without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from more4d.training.checkpoints.checkpoint import Checkpoint
    from more4d.training.checkpoints.export import export_tensors
    from more4d.training.checkpoints.fitting import require_same_model
    from more4d.training.checkpoints.ranks import OneRank, Ranks
    from more4d.training.checkpoints.settings import CheckpointSettings
    from more4d.training.checkpoints.store import CheckpointStore

_PUBLIC = {
    "Checkpoint": "checkpoint",
    "CheckpointSettings": "settings",
    "CheckpointStore": "store",
    "OneRank": "ranks",
    "Ranks": "ranks",
    "export_tensors": "export",
    "require_same_model": "fitting",
}

__all__ = [
    "Checkpoint",
    "CheckpointSettings",
    "CheckpointStore",
    "OneRank",
    "Ranks",
    "export_tensors",
    "require_same_model",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
