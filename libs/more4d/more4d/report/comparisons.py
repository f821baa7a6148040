"""Held-out samples with what the networks made of them, side by side.

Shape letters: T frames, H height, W width.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from more4d.data.sample import Sample
from more4d.data.shards import TrajSceneDataset
from more4d.data.tensors import read_arrays
from more4d.report.model import Comparison, Image
from more4d.report.pictures import PANEL_WIDTH, depth_panel, stripe_holes, tracks_panel

SHOWN = 6
_PREDICTION = "prediction.safetensors"

Panels = tuple[tuple[str, Image], ...]


def collect_comparisons(root: Path) -> tuple[Comparison, ...]:
    """Some of results/samples, those with novel views first; none where the stage has not run."""
    made = sorted((root / "results" / "samples").glob(f"*/{_PREDICTION}"))
    if not made:
        return ()
    samples = TrajSceneDataset(root / "datasets" / "trajscene", "val")
    places = {sample: place for place, sample in enumerate(samples.ids)}
    known = [(places[path.parent.name], read_arrays(path)[0]) for path in made if path.parent.name in places]
    known.sort(key=lambda pair: not any(name.startswith("view_") for name in pair[1]))
    return tuple(compare(samples[place], arrays) for place, arrays in known[:SHOWN])


def compare(sample: Sample, arrays: dict[str, NDArray[Any]]) -> Comparison:
    """Truth beside prediction: tracks, depth, and the last frame of a novel view where one was completed."""
    predicted = sample.points[0] + arrays["motion"].astype(np.float32)
    everywhere = np.ones_like(sample.visibility)
    first = sample.video[0]
    panels: Panels = (
        ("true tracks", tracks_panel(first, sample.points, everywhere, sample.intrinsics)),
        ("predicted tracks", tracks_panel(first, predicted, everywhere, sample.intrinsics)),
        ("true depth", depth_panel(sample.depth)),
        ("predicted depth", depth_panel(arrays["depth"])),
    )
    return Comparison(sample.id, sample.caption, panels + _view_panels(sample, arrays))


def _view_panels(sample: Sample, arrays: dict[str, NDArray[Any]]) -> Panels:
    for name, view in sample.views.items():
        completed = arrays.get(f"view_{name}")
        if completed is not None and view.video is not None:
            camera = name.replace("_", " ")
            return (
                (f"{camera}, points", stripe_holes(view.render[-1:], view.render_mask[-1:], PANEL_WIDTH)[0]),
                (f"{camera}, completed", completed[-1]),
                (f"{camera}, true", view.video[-1]),
            )
    return ()
