"""The parts of models/weights.toml behind the labelers that are networks of others: their licences."""

from collections.abc import Iterable
from pathlib import Path

from more4d.weights.registry import REGISTRY, Weight, read_registry

LABELERS = {"unidepth_v2": "unidepth-v2-vitl14", "moge": "moge-2-vitl-normal", "delta": "delta"}
"""As `rendered` and `real` of stages depth and tracks call them, and as the registry does."""


def labeler_licences(names: Iterable[str], root: Path) -> dict[str, str]:
    """The licence of each of the names that is a network of others; the registry is that of the workspace `root`."""
    return {name: weight.licence for name, weight in _registered(names, root).items()}


def refuse_noncommercial(names: Iterable[str], root: Path, *, stage: str) -> None:
    """Raises ValueError where one of these labelers may not be used commercially, naming what may."""
    for name, weight in _registered(names, root).items():
        if reason := weight.refusal():
            raise ValueError(f"stage {stage}: commercial_only is set, and {name} is {reason}")


def _registered(names: Iterable[str], root: Path) -> dict[str, Weight]:
    known = [name for name in dict.fromkeys(names) if name in LABELERS]
    # Without such a labeler there need be no registry.
    return (
        dict(zip(known, read_registry(root / REGISTRY).named(LABELERS[n] for n in known), strict=True)) if known else {}
    )
