"""Stage evaluation: the held-out samples' predictions against their truth, beside the baselines.

Shape letters: T frames, H height, W width.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from tqdm import tqdm

from more4d.data.atomic import atomic_write_json
from more4d.data.sample import Sample
from more4d.data.shards import TrajSceneDataset
from more4d.data.tables import write_table
from more4d.data.tensors import read_arrays
from more4d.evaluation.baselines import Clip, MotionStatistics, caption_lookup, gather_statistics, mean_motion
from more4d.evaluation.depth import depth_sums
from more4d.evaluation.summary import Row, rounded, summarise_depth, summarise_trajectories, summarise_views
from more4d.evaluation.trajectories import method_sums, static_sums
from more4d.evaluation.views import view_sums
from more4d.settings import Section
from more4d.stages.base import Context, Stage
from more4d.stages.samples import PREDICTION, STEREO


class EvaluationParams(Section):
    """What the baselines learn from."""

    baseline_samples: int = Field(gt=0)
    """Training samples whose mean motion the baselines use; only rendered ones, whose truth is exact."""


class EvaluationStage(Stage[EvaluationParams]):
    """results/samples to evaluation.json (figures with intervals) and per_sample.parquet (the sums behind them)."""

    name = "evaluation"
    section = EvaluationParams
    inputs = {"samples": "results/samples", "trajscene": "datasets/trajscene"}
    outputs = {"evaluation": "results/evaluation"}

    def run(self, context: Context[EvaluationParams]) -> dict[str, float]:
        """Every figure of evaluation.json."""
        trajscene = context.inputs["trajscene"]
        statistics = gather_statistics(_training_clips(trajscene, context.params.baseline_samples))
        rows, views = [], []
        for sample, arrays in _predictions(trajscene, context.inputs["samples"]):
            rows.append(_sample_row(sample, arrays, statistics))
            views += _view_rows(sample, arrays)
        folder = context.outputs["evaluation"]
        write_table(folder / "per_sample.parquet", pd.DataFrame(rows))
        write_table(folder / "per_view.parquet", pd.DataFrame(views, columns=None if views else ["id", "camera"]))
        figures = rounded({**summarise_trajectories(rows), **summarise_views(views), **summarise_depth(rows)})
        stereo = json.loads((context.inputs["samples"] / STEREO).read_text())
        figures |= rounded({**_from_estimated_depth(rows), **stereo})
        # A figure that does not exist (no view was completed) is left out: JSON has no NaN.
        figures = {key: value for key, value in sorted(figures.items()) if np.isfinite(value)}
        atomic_write_json(folder / "evaluation.json", figures)
        return figures


def _training_clips(trajscene: Path, count: int) -> Iterator[Clip]:
    samples = TrajSceneDataset(trajscene, "train", with_views=False)
    taken = 0
    for i in tqdm(range(len(samples)), desc="training motion", unit="sample"):
        if taken == count:
            return
        sample = samples[i]
        if sample.kind == "rendered":
            taken += 1
            yield clip_of(sample)


def clip_of(sample: Sample) -> Clip:
    """What the baselines and the errors need of a sample."""
    return Clip(sample.caption, sample.points, sample.visibility, sample.intrinsics)


def _predictions(trajscene: Path, folder: Path) -> Iterator[tuple[Sample, dict[str, NDArray[Any]]]]:
    samples = TrajSceneDataset(trajscene, "val")
    numbers = {sample_id: i for i, sample_id in enumerate(samples.ids)}
    made = sorted(path.parent.name for path in folder.glob(f"*/{PREDICTION}"))
    unknown = [name for name in made if name not in numbers]
    if unknown or not made:
        raise ValueError(
            f"stage evaluation: {len(unknown)} of {len(made)} predictions in {folder} are of samples that trajscene does "
            "not hold; run the stage samples again"
        )
    for name in tqdm(made, desc="evaluation", unit="sample"):
        yield samples[numbers[name]], read_arrays(folder / name / PREDICTION)[0]


def _sample_row(sample: Sample, arrays: dict[str, NDArray[Any]], statistics: MotionStatistics) -> Row:
    clip = clip_of(sample)
    truth, first = clip.truth, clip.points[0]
    predictions = {
        "model": first + arrays["motion"].astype(np.float32),
        "vae": first + arrays["motion_vae"].astype(np.float32),
        "mean_motion": mean_motion(statistics, clip),
        "caption_lookup": caption_lookup(statistics, clip),
    }
    if "points_depth" in arrays:
        predictions["estimated_depth"] = arrays["points_depth"].astype(np.float32)
    row: Row = {"id": sample.id, "caption": sample.caption, "kind": sample.kind, **static_sums(truth)}
    for method, points in predictions.items():
        row |= method_sums(points, truth, method)
    return row | depth_sums(arrays["depth"], sample.depth)


def _view_rows(sample: Sample, arrays: dict[str, NDArray[Any]]) -> Iterator[Row]:
    for name, view in sample.views.items():
        if f"view_{name}" in arrays and view.video is not None:
            sums = view_sums(arrays[f"view_{name}"], view.video, view.render, view.render_mask)
            yield {"id": sample.id, "camera": name, **sums}


def _from_estimated_depth(rows: list[Row]) -> dict[str, float]:
    """Mean error in metres when the first frame's depth is the network's too: depth and motion errors together."""
    if "estimated_depth_all_error" not in rows[0]:
        return {}
    sums = {key: sum(row[key] for row in rows) for key in rows[0] if isinstance(rows[0][key], int | float)}
    return {
        f"estimated_depth_{region}_error_m": sums[f"estimated_depth_{region}_error"] / max(sums[f"{region}_count"], 1)
        for region in ("moving", "all")
    }


STAGE = EvaluationStage()
