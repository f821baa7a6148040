"""Which files make up a checkpoint: one folder, or what the lineage trained on top of its base."""

from pathlib import Path

from more4d.models.bundle import CONFIG, Models

BASE = "tiny-base"
"""The folder of the base checkpoint beside what the lineage trained."""


def load_checkpoint(folder: Path, *, device: str = "cpu") -> Models:
    """The networks in `folder`: a checkpoint, or the lineage's `models` folder (its networks over those of its base).

    Raises ValueError naming what is missing and how to make it.
    """
    if (folder / CONFIG).is_file():
        return Models.load(folder, device=device)
    parts = {"vae": folder / "motion_vae", "strag": folder / "strag", "vism": folder / "vism"}
    if all(part.is_dir() for part in parts.values()):
        return load_lineage(folder / BASE, **parts, device=device)
    raise ValueError(
        f"no checkpoint at {folder}: it holds neither {CONFIG} nor a lineage's motion_vae, strag and vism; "
        "give a checkpoint folder, or run `make tiny-base`"
    )


def load_lineage(base: Path, *, vae: Path, strag: Path, vism: Path, device: str = "cpu") -> Models:
    """The base's networks with the motion VAE, STraG and ViSM that the lineage trained, each in its stage's folder."""
    overrides = {
        "vae": vae / "vae.safetensors",
        "strag": strag / "strag.safetensors",
        "vism": vism / "vism.safetensors",
    }
    return Models.load(base, overrides=overrides, device=device)
