"""Which fetched files a preset's checkpoint is assembled from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from more4d.models.bundle import TOKENIZER, VIDEO_VAE
from more4d.models.licences import OWN
from more4d.weights.assemble import Sources
from more4d.weights.fetch import missing_files
from more4d.weights.registry import Layout, Network, Registry, Weight


def parts_of(registry: Registry, preset: str, *, training: bool) -> dict[str, Weight]:
    """The weights of a preset's checkpoint, by their fields in `Sources`.

    `training` starts STraG from its base even where a trained one is released. Raises ValueError for a preset without
    published networks.
    """
    weights = registry.needed(preset)
    parts = {
        "motion_vae": _find(weights, preset, "motion_vae"),
        VIDEO_VAE: _find(weights, preset, "wan_vae"),
        "vism": _find(weights, preset, "vism", "wan_dit"),
        "text": _find(weights, preset, "text"),
        "image_encoder": _find(weights, preset, "image_encoder"),
        "tokenizer": next(w for w in weights if any(f.path.endswith(TOKENIZER) for f in w.file)),
    }
    released = next((w for w in weights if w.network == "strag"), None)
    if released is not None and not training:
        parts["strag"] = released
    else:
        parts["strag_base"] = _find(weights, preset, "strag-base")
        parts["omnimae"] = _find(weights, preset, "motion_encoder")
    lora = next((w for w in weights if w.layout == "vism_lora"), None)
    return parts if lora is None else parts | {"vism_lora": lora}


def licences_of(parts: Mapping[str, Weight]) -> dict[str, str]:
    """The licence of each network of the checkpoint that is assembled from these parts."""
    strag, motion_encoder = ("strag", "strag") if "strag" in parts else ("strag_base", "omnimae")
    made_of = {
        "vae": ["motion_vae"],
        VIDEO_VAE: [VIDEO_VAE],
        "strag": [strag],
        "motion_encoder": [motion_encoder],
        "vism": ["vism", "vism_lora"],
        "text": ["text"],
        "image_encoder": ["image_encoder"],
    }
    licences = {name: [parts[p].licence for p in given if p in parts] for name, given in made_of.items()}
    return {name: ", merged with ".join(dict.fromkeys(given)) for name, given in licences.items()} | {"depth": OWN}


def sources_of(parts: dict[str, Weight], store: Path, depth: Path) -> Sources:
    """The parts' files in the store, and the weights of our own depth network.

    Raises FileNotFoundError naming the weights that are not there.
    """
    missing = list(dict.fromkeys(w.name for w in parts.values() if missing_files(w, store)))
    if missing:
        raise FileNotFoundError(f"{', '.join(missing)} are not in {store}; `more4d weights fetch {' '.join(missing)}`")
    paths = {name: store / w.name / (w.folder or _file(w, name)) for name, w in parts.items()}
    return Sources(**paths, depth=depth)


def _find(weights: Sequence[Weight], preset: str, network: Network, layout: Layout | None = None) -> Weight:
    for weight in weights:
        if weight.network == network and layout in (None, weight.layout):
            return weight
    raise ValueError(f"no published {network} is made for preset {preset}; `more4d weights list` tells which are")


def _file(weight: Weight, part: str) -> str:
    return next(
        (f.path for f in weight.file if part == "tokenizer" and f.path.endswith(TOKENIZER)), weight.file[0].path
    )
