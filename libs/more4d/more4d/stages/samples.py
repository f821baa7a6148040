"""Stage samples: what the networks make of held-out samples: trajectories, depth, and novel views.

Shape letters: T frames, H height, W width.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from tqdm import tqdm

from more4d.data.atomic import atomic_write_json
from more4d.data.sample import Sample
from more4d.data.shards import TrajSceneDataset
from more4d.data.tensors import write_arrays
from more4d.evaluation.predict import Sampling, predict_depths, predict_points, through_vae
from more4d.evaluation.stereo import stereo_figures, stereo_truths
from more4d.inference.checkpoints import load_lineage
from more4d.inference.views import complete_view
from more4d.models.bundle import Models
from more4d.settings import Section
from more4d.stages.base import Context, Stage

PREDICTION = "prediction.safetensors"
STEREO = "stereo.json"
"""Figures of the depth network on real stereo photos."""


class SamplesParams(Section):
    """How many held-out samples, and how they are sampled."""

    limit: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    view_limit: int = Field(ge=0)
    """Of the samples, those whose novel views are completed."""
    steps: int | None = Field(default=None, gt=0)
    guidance: float | None = Field(default=None, ge=1)
    """None takes the checkpoint's own."""
    predicted_depth: bool = True
    """Generate a second time from the depth network's depth: what a photo without truth gets."""


class SamplesStage(Stage[SamplesParams]):
    """Held-out samples to results/samples/<id>/prediction.safetensors.

    motion float16 [T,H,W,3] (metres, from the labeled first-frame points), motion_vae (the truth through the VAE), depth
    float32 [H,W] (the network's), points_depth float16 [T,H,W,3] (from that depth), view_<camera> uint8 [T,H,W,3].
    Beside them stereo.json.
    """

    name = "samples"
    section = SamplesParams
    inputs = {
        "trajscene": "datasets/trajscene",
        "vae": "models/motion_vae",
        "strag": "models/strag",
        "vism": "models/vism",
        "base": "models/tiny-base",
    }
    outputs = {"samples": "results/samples"}

    def run(self, context: Context[SamplesParams]) -> dict[str, float]:
        """How many samples and views were made."""
        params, inputs = context.params, context.inputs
        models = load_lineage(inputs["base"], vae=inputs["vae"], strag=inputs["strag"], vism=inputs["vism"])
        sampling = sampling_of(models, params, context.seed)
        samples = TrajSceneDataset(inputs["trajscene"], "val")
        count, views = min(params.limit, len(samples)), 0
        if not count:
            raise ValueError("stage samples: trajscene has no val sample; raise source.rendered_val in params.yaml")
        with tqdm(total=count, desc="samples", unit="sample") as bar:
            for start in range(0, count, params.batch_size):
                batch = [samples[i] for i in range(start, min(count, start + params.batch_size))]
                for number, (sample, arrays) in enumerate(_predict(models, batch, sampling, params), start=start):
                    if number < params.view_limit:
                        arrays |= complete_views(models, sample, sampling)
                    views += sum(key.startswith("view_") for key in arrays)
                    _write(context.outputs["samples"] / sample.id, sample, arrays, sampling)
                    bar.update()
        atomic_write_json(context.outputs["samples"] / STEREO, stereo_figures(models, stereo_truths(None)))
        return {"samples": count, "views": views}


def sampling_of(models: Models, params: SamplesParams, seed: int) -> Sampling:
    """The parameters' steps and guidance, where they say none the checkpoint's."""
    own = Sampling.of(models, seed)
    steps = own.steps if params.steps is None else params.steps
    return Sampling(steps, own.guidance if params.guidance is None else params.guidance, seed)


def complete_views(models: Models, sample: Sample, sampling: Sampling) -> dict[str, NDArray[np.uint8]]:
    """`view_<camera>` uint8 [T,H,W,3] of every novel view whose truth is known."""
    known = {name: view for name, view in sample.views.items() if view.video is not None}
    return {
        f"view_{name}": complete_view(
            models, view.render, view.render_mask, sample.video[0], sample.caption, **vars(sampling)
        )
        for name, view in known.items()
    }


def _predict(
    models: Models, batch: list[Sample], sampling: Sampling, params: SamplesParams
) -> Iterator[tuple[Sample, dict[str, NDArray[Any]]]]:
    pictures, captions = [s.video[0] for s in batch], [s.caption for s in batch]
    cameras, depths = [s.intrinsics for s in batch], [s.depth for s in batch]
    points = predict_points(models, pictures, captions, depths, cameras, sampling)
    decoded = through_vae(models, [s.points for s in batch], cameras)
    estimated = predict_depths(models, pictures, cameras)
    from_estimate = (
        predict_points(models, pictures, captions, list(estimated), cameras, sampling)
        if params.predicted_depth
        else [None] * len(batch)
    )
    for sample, p, d, depth, e in zip(batch, points, decoded, estimated, from_estimate, strict=True):
        arrays: dict[str, NDArray[Any]] = {
            "motion": (p - p[0]).astype(np.float16),
            "motion_vae": (d - d[0]).astype(np.float16),
            "depth": depth,
        }
        yield sample, arrays if e is None else arrays | {"points_depth": e.astype(np.float16)}


def _write(folder: Path, sample: Sample, arrays: dict[str, NDArray[Any]], sampling: Sampling) -> None:
    folder.mkdir()
    facts = {"id": sample.id, "caption": sample.caption, "kind": sample.kind, "sampling": vars(sampling)}
    write_arrays(folder / PREDICTION, arrays, facts)


STAGE = SamplesStage()
