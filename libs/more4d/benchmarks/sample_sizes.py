"""How large samples are at 49x336x596 and how far quantisation moves their points: rendered scenes and flow tracks.

Prints a Markdown table, a row a sample: MB of the tracks, of the masks, of the clip, of its splat render and of these
together; MB of two further cameras (render, mask and, where the scene was rendered, the truth); then the largest errors
of the points that quantisation holds, and the share kept exactly instead. Rendered scenes come twice: with their exact
tracks, and with the flow tracker's over the depth network's depth, as real clips have them.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
import yaml
from more4d.curation.shots import shot_detector
from more4d.curation.windows import WindowShape, iter_windows
from more4d.data.packaged import FOLDER
from more4d.data.sample import Sample, SampleView, decode_sample, encode_sample
from more4d.data.video import VideoError, encode_video, read_video
from more4d.geometry.paths import camera_path, scene_centre
from more4d.inference.render import render_path
from more4d.labeling.clips import Clip
from more4d.labeling.depth import NetworkDepth
from more4d.labeling.flow_tracker import FlowTrackerParams
from more4d.labeling.tracks import FlowTracker, TrackLabel
from more4d.presets import TINY
from more4d.scenes import RenderedScene, render_scene, sample_scene
from numpy.typing import NDArray

SHAPE = WindowShape(frames=49, height=336, width=596, fps=16.0)
CLIPS = ("bigbuckbunny.mp4", "carphone_distorted.mp4", "sports2d_demo.mp4", "pose2sim_single_cam01.mp4")
VIEWS = ("circle_left", "top_down")
BAR = {"exact": 22.0, "flow": 30.0}
COLUMNS = ("tracks", "masks", "clip", "render", "sample")


@dataclass(frozen=True)
class Settings:
    """How clips are kept (stage clips' crf) and tracked."""

    crf: int
    base: Path
    params: FlowTrackerParams

    def clip(self, frames: NDArray[np.uint8]) -> bytes:
        """The file that stage clips makes of a window."""
        return encode_video(frames, SHAPE.fps, lossless=self.crf == 0, crf=self.crf)


def labeled(video: bytes, settings: Settings) -> TrackLabel:
    """The flow tracker's tracks over the depth network's depth."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "clip.mp4"
        path.write_bytes(video)
        clip = Clip("clip", "real", path, 0, None)
        return FlowTracker(settings.params).track(clip, NetworkDepth(settings.base).estimate(clip))


def sample_of(video: NDArray[np.uint8], tracks: TrackLabel, scene: RenderedScene | None) -> Sample:
    """The sample that stage trajscene makes of a tracked clip, with two further cameras."""
    centre, still = (
        scene_centre(torch.from_numpy(tracks.depth0)),
        np.repeat(np.eye(4, dtype=np.float32)[None], len(video), 0),
    )
    render, covered = render_path(tracks.points, video[0], tracks.intrinsics, still)
    views = {}
    for name in VIEWS:
        poses = camera_path(name, len(video), centre=centre).numpy().astype(np.float32)
        truth = None if scene is None else scene.views[name].video
        views[name] = SampleView(truth, poses, *render_path(tracks.points, video[0], tracks.intrinsics, poses))
    return Sample(
        id="a", video=video, fps=SHAPE.fps, caption="", intrinsics=tracks.intrinsics, depth=tracks.depth0,
        points=tracks.points, visibility=tracks.visibility, render=render, render_mask=covered, split="train",
        kind="real" if scene is None else "rendered", views=views,
    )  # fmt: skip


def sizes(files: dict[str, bytes]) -> dict[str, float]:
    """MB by COLUMNS and of the views."""
    kinds = {
        "tracks": lambda name: name.startswith("tracks_"),
        "masks": lambda name: name in ("visibility.bin", "render_mask.bin"),
        "clip": lambda name: name == "video.mp4",
        "render": lambda name: name == "render.mp4",
        "views": lambda name: name.startswith("view_"),
    }
    found = {kind: sum(len(data) for name, data in files.items() if of(name)) / 1e6 for kind, of in kinds.items()}
    return {**found, "sample": sum(map(len, files.values())) / 1e6 - found["views"]}


def errors(sample: Sample, back: Sample) -> tuple[float, float, float]:
    """(largest error in pixels, largest relative error of depth, share of points kept exactly instead)."""
    kept = np.all((sample.points == back.points) | (np.isnan(sample.points) & np.isnan(back.points)), axis=-1)
    with np.errstate(invalid="ignore"):
        held = np.isfinite(sample.points).all(-1) & (sample.points[..., 2] > 0)
    before, after = sample.points[held].astype(np.float64), back.points[held].astype(np.float64)
    focal = sample.intrinsics[(0, 1), (0, 1)].astype(np.float64)
    moved = focal * (after[:, :2] / after[:, 2:] - before[:, :2] / before[:, 2:])
    depth = np.abs(after[:, 2] / before[:, 2] - 1)
    return float(np.linalg.norm(moved, axis=-1).max()), float(depth.max()), float(kept.mean())


def row(name: str, kind: str, sample: Sample, clip: bytes) -> None:
    """Print one line of the table. Raises ValueError where a bar is missed."""
    files = encode_sample(sample, clip)
    found = sizes(files)
    pixels, depth, kept = errors(sample, decode_sample(files))
    cells = [f"{found[column]:.2f}" for column in (*COLUMNS, "views")]
    print(
        f"| {name} | {kind} | {' | '.join(cells)} | {pixels:.4f} | {100 * depth:.4f} | {100 * kept:.2f} |", flush=True
    )
    if found["sample"] > BAR[kind] or pixels > 0.05 or depth > 0.001:
        raise ValueError(f"{name}: above {BAR[kind]} MB, 0.05 px or 0.1 % of depth")


Case = tuple[str, str, Sample, bytes]


def rendered(seeds: range, settings: Settings) -> Iterator[Case]:
    """Each scene with its own tracks and with the flow tracker's."""
    for seed in seeds:
        scene = render_scene(
            sample_scene(seed), frames=SHAPE.frames, height=SHAPE.height, width=SHAPE.width, views=VIEWS
        )
        clip = settings.clip(scene.video)
        exact = TrackLabel(scene.points, scene.visibility, scene.depth, scene.intrinsics)
        for kind, tracks in (("exact", exact), ("flow", labeled(clip, settings))):
            yield f"scene {seed}", kind, sample_of(read_video(clip)[0], tracks, scene), clip


def real(names: list[str], settings: Settings) -> Iterator[Case]:
    """The first window of each packaged clip that has one of full length."""
    for name in names:
        detector, threshold = shot_detector(TINY["clips"]["shots"]), TINY["clips"]["cut_threshold"]
        windows = iter_windows(FOLDER / "clips" / name, SHAPE, detector=detector, cut_threshold=threshold)
        try:
            window = next(islice((w for w in windows if w.ended_by == "length"), 1), None)
        except VideoError as error:
            print(f"({error})")
            continue
        if window is None:
            print(f"({name} has no shot of {SHAPE.frames} frames)")
            continue
        clip = settings.clip(window.frames)
        yield name, "flow", sample_of(read_video(clip)[0], labeled(clip, settings), None), clip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=3, help="rendered scenes, by seeds from 0 on")
    parser.add_argument("--clips", nargs="*", default=list(CLIPS), help=f"packaged clips in {FOLDER / 'clips'}")
    parser.add_argument("--base", type=Path, default=Path("models/tiny-base"), help="whose depth network")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="whose tracks.flow")
    parser.add_argument("--crf", type=int, default=16, help="of the clips, as clips.crf; 0 is lossless")
    options = parser.parse_args()
    params = FlowTrackerParams(**yaml.safe_load(options.params.read_text())["tracks"]["flow"])
    settings = Settings(options.crf, options.base, params)
    names = " | ".join(f"{column}, MB" for column in (*COLUMNS, "2 views"))
    print(f"| clip | tracks | {names} | error, px | of depth, % | kept exactly, % |\n|{'---|' * (len(COLUMNS) + 6)}")
    for case in chain(real(options.clips, settings), rendered(range(options.scenes), settings)):
        row(*case)


if __name__ == "__main__":
    main()
