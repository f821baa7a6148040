"""Whether a checkpoint is of the network that is to be trained on."""

from collections.abc import Mapping

from more4d.models.conversion import CheckpointError
from more4d.models.conversion.names import listed
from more4d.training.checkpoints.checkpoint import Checkpoint


def require_same_model(checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]], prefix: str = "model/") -> None:
    """Raises CheckpointError naming each tensor under `prefix` that is missing, extra or of another shape than wanted.

    `shapes` are those of the network's state dict, by its keys.
    """
    found = {n.removeprefix(prefix): checkpoint.shape(n) for n in checkpoint.names() if n.startswith(prefix)}
    if differences := different(found, shapes):
        raise CheckpointError(
            f"{checkpoint.folder} is of another network: {differences}; train it on with the settings that it was made "
            "with, or start in another folder"
        )


def different(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> str:
    """Which tensors are missing, extra or of another shape, with both shapes; empty where all are alike."""
    missing = [f"{name} {list(wanted[name])}" for name in sorted(wanted.keys() - found.keys())]
    extra = [f"{name} {list(found[name])}" for name in sorted(found.keys() - wanted.keys())]
    other = [
        f"{name} is {list(found[name])}, not {list(wanted[name])}"
        for name in sorted(found.keys() & wanted.keys())
        if tuple(found[name]) != tuple(wanted[name])
    ]
    kinds = {"missing": missing, "extra": extra, "of another shape": other}
    return "; ".join(f"{len(names)} {kind}: {listed(names)}" for kind, names in kinds.items() if names)
