"""`python -m more4d.evaluation.labelers --scenes N --seed S`: how right the labels of depth and tracks are, as two tables.

Scenes are rendered from seeds that no base is trained on (as in more4d.evaluation.tiny), labeled as a real clip would be, and
compared with their exact truth. Real clips have no truth: nothing here measures them, but for the depth of two photos whose
stereo pair gives it. Progress goes to stderr. Needs the packaged fox (`python -m more4d.data.packaged`).

Shape letters: T frames, H height, W width.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import yaml
from numpy.typing import NDArray

from more4d.data.atomic import atomic_write_json
from more4d.evaluation.command import run_command
from more4d.evaluation.depth import constant_depth, depth_scores
from more4d.evaluation.held_out import Size
from more4d.evaluation.pooling import Interval, bootstrap
from more4d.evaluation.stereo import stereo_figures, stereo_truths
from more4d.evaluation.tracking import pixel_scores, tapvid3d
from more4d.evaluation.trajectories import Truth, nothing_moves
from more4d.inference.checkpoints import load_checkpoint
from more4d.labeling.clips import Clip
from more4d.labeling.depth import DepthLabel, NetworkDepth
from more4d.labeling.flow_tracker import FlowTrackerParams, PixelTracks, lift, track_pixels
from more4d.labeling.tracks import TrackLabel
from more4d.parallel import ordered_map
from more4d.scenes import RenderedScene, SceneConfig, render_scene, sample_scene
from more4d.training.base_scenes import held_out_seeds

Row = dict[str, float]
Figures = dict[str, dict[str, Interval]]

WITHIN_PIXELS = 1.0
"""A moving pixel is tracked where it is seen and placed this near, in the clip's own pixels."""
TRACK_MEASURES = {
    "median_aj": "AJ, median scaling",
    "median_apd": "APD, median scaling",
    "aj": "AJ, metres as they are",
    "apd": "APD, metres as they are",
    "oa": "visibility accuracy (OA)",
    "moving_aj": "AJ, moving pixels, metres as they are",
    "moving_apd": "APD, moving pixels, metres as they are",
    "moving_track_aj": "AJ, moving pixels, per-trajectory scaling",
    "moving_track_apd": "APD, moving pixels, per-trajectory scaling",
    "moving_oa": "visibility accuracy (OA), moving pixels",
    "epe": "median end-point error, px",
    "moving_epe": "median end-point error, moving pixels, px",
    "moving_tracked": "share of moving pixels tracked",
}
DEPTH_MEASURES = {"abs_rel": "abs rel", "delta1": "δ1", "log_error": "log error"}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Labelers:
    """What every scene is rendered at and labeled by; `base` is the folder of the depth network."""

    size: Size
    base: Path
    flow: FlowTrackerParams


@app.command()
def run(
    seed: Annotated[int, typer.Option(help="of the held-out scenes")],
    scenes: Annotated[int, typer.Option(min=1, help="how many")] = 64,
    height: Annotated[int, typer.Option(min=16, help="pixels")] = 64,
    width: Annotated[int, typer.Option(min=16, help="pixels")] = 96,
    frames: Annotated[int, typer.Option(min=2, help="of a scene")] = 13,
    fps: Annotated[float, typer.Option(help="frames per second")] = 8.0,
    checkpoint: Annotated[Path, typer.Option(help="the folder with the depth network")] = Path("models/tiny-base"),
    params: Annotated[Path, typer.Option(help="where tracks.flow is read")] = Path("params.yaml"),
    workers: Annotated[int | None, typer.Option(min=1, help="processes; all cores unless told")] = None,
    json: Annotated[Path | None, typer.Option(help="also write every figure to this file")] = None,
) -> None:
    """Measure the flow tracker and the depth network against exact truth; prints two tables with 95 % intervals."""
    labelers = Labelers(Size(frames, height, width, fps), checkpoint, read_flow_params(params))
    seeds = held_out_seeds(seed, scenes)
    measure = partial(measure_scene, labelers)
    count = workers or len(os.sched_getaffinity(0))
    rows = list(ordered_map(measure, seeds, workers=count, label="held-out scenes"))
    tracks, depth = (summarise([row[part] for row in rows]) for part in (0, 1))
    stereo = stereo_figures(load_checkpoint(checkpoint), stereo_truths())
    about = {"scenes": scenes, "seed": seed, "frames": frames, "height": height, "width": width, "fps": fps}
    typer.echo(report(tracks, depth, stereo, about))
    if json is not None:
        figures = {
            name: {method: _plain(g) for method, g in part.items()}
            for name, part in (("tracks", tracks), ("depth", depth))
        }
        atomic_write_json(json, {**about, **figures, "stereo": stereo})


def read_flow_params(path: Path) -> FlowTrackerParams:
    """The section tracks.flow of a params file. Raises ValueError where it is missing or wrong."""
    values = yaml.safe_load(path.read_text())
    try:
        return FlowTrackerParams.model_validate(values["tracks"]["flow"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} has no section tracks.flow; name another file with --params") from error


def measure_scene(labelers: Labelers, seed: int) -> tuple[dict[str, Row], dict[str, Row]]:
    """One held-out scene: the measures of every tracker, and of first-frame depth."""
    size = labelers.size
    spec = sample_scene(seed, SceneConfig(fps=size.fps))
    scene = render_scene(spec, frames=size.frames, height=size.height, width=size.width)
    truth = Truth(scene.points, np.asarray(scene.visibility, bool))
    clip = clip_of_scene(scene)
    exact, own = DepthLabel(scene.depths, scene.intrinsics), NetworkDepth(labelers.base).estimate(clip)
    # Tracked once: depth does not matter to the flow.
    flow = track_pixels(clip.frames(), labelers.flow)
    still, seen = nothing_moves(truth), np.ones_like(truth.visibility)
    answers = {
        "truth": TrackLabel(truth.points, truth.visibility, scene.depth, scene.intrinsics),
        "flow, exact depth": _lifted(flow, exact, labelers.flow),
        "flow, own depth": _lifted(flow, own, labelers.flow),
        "nothing moves": TrackLabel(still, seen, scene.depth, scene.intrinsics),
    }
    depths = {"own network": own.depths[0], "best constant plane": constant_depth(scene.depth)}
    return (
        {name: track_row(tracks, truth, scene.intrinsics) for name, tracks in answers.items()},
        {name: dataclasses.asdict(depth_scores(depth, scene.depth)) for name, depth in depths.items()},
    )


def clip_of_scene(scene: RenderedScene) -> Clip:
    """The scene as the labelers see a real clip: frames alone, no truth."""
    return _FramesClip(f"scene-{scene.seed}", "rendered", Path(), 0, None, scene.video)


def track_row(tracks: TrackLabel, truth: Truth, intrinsics: NDArray[np.floating]) -> Row:
    """A tracker's measures in one scene, by the names of TRACK_MEASURES; `intrinsics` [3,3] are the true ones."""
    whole = tapvid3d(tracks, truth, intrinsics, scaling="none")
    moving = tapvid3d(tracks, truth, intrinsics, scaling="none", region=truth.moving)
    scaled = tapvid3d(tracks, truth, intrinsics, scaling="median")
    pixels = pixel_scores(tracks, truth, intrinsics, within_pixels=WITHIN_PIXELS)
    moving_pixels = pixel_scores(tracks, truth, intrinsics, within_pixels=WITHIN_PIXELS, region=truth.moving)
    own = tapvid3d(tracks, truth, intrinsics, scaling="per_trajectory", region=truth.moving)
    return {
        "median_aj": scaled.average_jaccard,
        "median_apd": scaled.average_within,
        "aj": whole.average_jaccard,
        "apd": whole.average_within,
        "oa": whole.occlusion_accuracy,
        "moving_aj": moving.average_jaccard,
        "moving_apd": moving.average_within,
        "moving_oa": moving.occlusion_accuracy,
        "moving_track_aj": own.average_jaccard,
        "moving_track_apd": own.average_within,
        "epe": pixels.median_error,
        "moving_epe": moving_pixels.median_error,
        "moving_tracked": moving_pixels.tracked,
    }


def summarise(rows: Sequence[Mapping[str, Row]]) -> Figures:
    """For each method and measure the mean over scenes (NaN left out) with its 95 % interval over resampled scenes."""
    return {
        method: {
            measure: bootstrap(np.array([row[method][measure] for row in rows]), _mean) for measure in rows[0][method]
        }
        for method in rows[0]
    }


def report(tracks: Figures, depth: Figures, stereo: Mapping[str, float], about: Mapping[str, float]) -> str:
    """Both tables as Markdown, and what they do not measure."""
    size = "{scenes} held-out scenes of seed {seed}, {frames} frames of {height}x{width} pixels".format_map(about)
    return "\n".join(
        [
            f"Tracks: {size}. Means over scenes with 95 % intervals. AJ, APD, OA as in TAPVid-3D; a moving pixel is",
            f"displaced by more than 1 % of its depth, and tracked where it is seen and within {WITHIN_PIXELS:g} pixel.",
            "",
            *_table(tracks, TRACK_MEASURES),
            "",
            f"Depth of the first frame: {size}.",
            "",
            *_table(depth, DEPTH_MEASURES),
            "",
            "Depth of real photos with a stereo pair: mean error of inverse depth over its mean, scale and shift fitted.",
            "",
            *_stereo_table(stereo),
            "",
            "Real clips are not measured: their tracks and depths have no truth.",
        ]
    )


def _table(figures: Figures, measures: Mapping[str, str]) -> list[str]:
    methods = list(figures)
    rows = [[title, *(_cell(figures[method][key]) for method in methods)] for key, title in measures.items()]
    return _markdown(["", *methods], rows)


def _stereo_table(stereo: Mapping[str, float]) -> list[str]:
    names = [key.removeprefix("stereo_").removesuffix("_correlation") for key in stereo if key.endswith("_correlation")]
    columns = ("error", "plane_error", "correlation")
    rows = [[name, *(f"{stereo[f'stereo_{name}_{column}']:.3f}" for column in columns)] for name in names]
    return _markdown(["", "own network", "best constant plane", "correlation of own network"], rows)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _cell(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f}–{interval.high:.3f})"


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _lifted(pixels: PixelTracks, depth: DepthLabel, params: FlowTrackerParams) -> TrackLabel:
    """What FlowTracker.track answers with that depth."""
    points = lift(pixels, depth.depths, depth.intrinsics, params.still_pixels)
    return TrackLabel(points, pixels.visible, depth.depths[0], depth.intrinsics)


def _plain(group: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: dataclasses.asdict(interval) for name, interval in group.items()}


@dataclass(frozen=True)
class _FramesClip(Clip):
    """A clip whose frames are in memory."""

    video: NDArray[np.uint8]

    def frames(self) -> NDArray[np.uint8]:
        return self.video


def main() -> None:
    """Run the command line; the user's mistakes end in one line on stderr and exit code 2."""
    run_command(app, "more4d.evaluation.labelers")


if __name__ == "__main__":
    main()
