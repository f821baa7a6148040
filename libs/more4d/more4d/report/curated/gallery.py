"""Contact sheets: what there is to see of a clip, whatever became of it.

Shape letters: T frames, H height, W width.
"""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from more4d.data.shards import TrajSceneDataset
from more4d.data.tables import ACCEPTED
from more4d.data.tensors import read_arrays
from more4d.data.video import VideoError, iter_frames
from more4d.report.curated.reasons import Kind
from more4d.report.curated.tables import accepted_rows, column, rows_where
from more4d.report.model import Image
from more4d.report.pictures import depth_panel, depth_range, image_bytes, resize, stripe_holes, tracks_panel

WIDTH = 360
"""Of a picture, in pixels."""
_QUALITY = 80


@dataclass(frozen=True)
class Panel:
    """A picture as a WebP file's bytes, what it shows, and the metres of its brightest and darkest colour."""

    kind: str
    label: str
    data: bytes
    metres: tuple[float, float] | None = None


@dataclass(frozen=True)
class Sheet:
    """The panels of one item, and why there are no more."""

    panels: tuple[Panel, ...]
    note: str = ""


@dataclass(frozen=True)
class Job:
    """Where the pictures of an item are: its sample, or the video and what labels it has; nothing is read yet."""

    video: Path | None
    wanted: tuple[int, ...] = (0,)
    """Numbers of the frames at `fps`."""
    fps: float = 0.0
    depth: Path | None = None
    tracks: Path | None = None
    samples: Path | None = None
    """The folder of shards."""
    position: int = 0
    """In all splits of the shards."""


@dataclass(frozen=True)
class Choice:
    """Positions in the journey that the gallery shows, and how many real ones it had to leave out."""

    items: tuple[int, ...]
    real_left_out: int


def choose(journey: pd.DataFrame, kinds: tuple[Kind, ...], *, rendered: int, real: int, seed: int) -> Choice:
    """Every real item up to `real`, `rendered` rendered samples drawn by the seed, and the example of every reason.

    Distractors that became samples are shown like reasons: all of them.
    """
    is_real = (column(journey, "origin") == "real").to_numpy(bool)
    order = (
        journey.assign(position=np.arange(len(journey)))
        .sort_values(["source_table", "source_row", "videoid", "clip_id", "position"], kind="stable")["position"]
        .tolist()
    )
    all_real = [int(i) for i in order if is_real[i]]
    is_sample = (column(journey, "verdict") == ACCEPTED).to_numpy(bool)
    others = [int(i) for i in order if is_sample[i] and not is_real[i]]
    drawn = np.random.default_rng(seed).permutation(len(others))[:rendered]
    chosen = {*all_real[:real], *(others[i] for i in sorted(drawn)), *(kind.example for kind in kinds)}
    left_out = len(set(all_real) - chosen)
    rows = zip(chosen, journey.iloc[list(chosen)].to_dict("records"), strict=True)
    ranked = sorted(_rank(row, i) for i, row in rows)
    return Choice(tuple(i for *_, i in ranked), left_out)


def _rank(row: Mapping[Hashable, Any], i: int) -> tuple[bool, str, int, str, int]:
    """Real ones first, then by where they come from."""
    return (row["origin"] != "real", str(row["source_table"]), int(row["source_row"]), str(row["clip_id"]), i)


def jobs(rows: list[dict[str, Any]], folders: Mapping[str, Path], tables: Mapping[str, pd.DataFrame]) -> Iterator[Job]:
    """Where the pictures of each row of the journey are."""
    places = {clip: place for place, clip in enumerate(TrajSceneDataset(folders["trajscene"]).ids)}
    ids = {row["clip_id"] for row in rows}
    clips = _records(tables["clips"], "clip_id", ids)
    videos = _records(accepted_rows(tables["source"]), "videoid", {row["videoid"] for row in rows})
    for row in rows:
        if row["verdict"] == ACCEPTED and row["clip_id"] in places:
            yield Job(None, samples=folders["trajscene"], position=places[row["clip_id"]])
        elif row["clip_id"]:
            yield _labeled(clips[row["clip_id"]], videos[row["videoid"]], folders)
        else:
            # A row that was refused has no video, whatever another row of the same id has.
            video = videos.get(row["videoid"]) if row["stage"] != "source" else None
            yield Job(folders["source"] / video["contentUrl"] if video else None)


def _records(table: pd.DataFrame, key: str, wanted: set[str]) -> dict[str, dict[str, Any]]:
    return {row[key]: row for row in rows_where(table, column(table, key).isin(wanted)).to_dict("records")}


def _labeled(clip: dict[str, Any], video: dict[str, Any], folders: Mapping[str, Path]) -> Job:
    count = max(int(clip["frames"]), 1)
    first = 0 if clip["path"] else round(float(clip["start_seconds"]) * float(clip["fps"]))
    path = folders["clips"] / clip["path"] if clip["path"] else folders["source"] / video["contentUrl"]
    wanted = tuple(dict.fromkeys((first, first + count // 2, first + count - 1)))
    depth, tracks = (folders[stage] / f"{clip['clip_id']}.safetensors" for stage in ("depth", "tracks"))
    return Job(
        path, wanted, float(clip["fps"]),
        depth=depth if depth.is_file() else None, tracks=tracks if tracks.is_file() else None,
    )  # fmt: skip


def draw(job: Job) -> Sheet:
    """The contact sheet; what cannot be read is said in its note."""
    if job.samples is not None:
        return _joined([_readable("The sample", _sample_panels(job.samples, job.position), job.samples)])
    if job.video is None:
        return Sheet((), "There is no video to show.")
    frames, note = _frames(job.video, job.wanted, job.fps)
    shown = Sheet(tuple(_panel("frame", _position(i, len(job.wanted)), image) for i, image in enumerate(frames)), note)
    labels = [] if job.tracks is None else [_readable("The tracks", _tracks_panels(job.tracks, frames), job.tracks)]
    labels += [] if job.depth is None else [_readable("The depth", _depth_panels(job.depth), job.depth)]
    return _joined([shown, *labels])


def _readable(what: str, panels: Iterator[Panel], path: Path) -> Sheet:
    """The panels of what is at the path, up to the first that cannot be drawn, and a note that says why."""
    drawn: list[Panel] = []
    try:
        drawn.extend(panels)
    except ValueError as error:
        why = str(error).replace(str(path), path.name)
        return Sheet(tuple(drawn), f"{what} cannot be read{' further' if drawn else ''}: {why}")
    return Sheet(tuple(drawn))


def _joined(sheets: list[Sheet]) -> Sheet:
    return Sheet(
        tuple(panel for sheet in sheets for panel in sheet.panels),
        " ".join(sheet.note for sheet in sheets if sheet.note),
    )


def _frames(path: Path, wanted: tuple[int, ...], fps: float) -> tuple[list[Image], str]:
    found: list[Image] = []
    try:
        for number, (_, image) in enumerate(iter_frames(path, fps or None)):
            if number in wanted:
                found.append(image)
            if number >= wanted[-1]:
                break
    except VideoError as error:
        return found, f"The video cannot be read{' further' if found else ''}: {error}"
    return found, "" if len(found) == len(wanted) else "The video ends before this window does."


def _position(i: int, count: int) -> str:
    return (
        "only frame" if count == 1 else ("first frame", "middle frame" if count > 2 else "last frame", "last frame")[i]
    )


def _tracks_panels(path: Path, frames: list[Image]) -> Iterator[Panel]:
    if frames:
        arrays = _arrays(path, "points", "visibility", "intrinsics")
        yield _tracks(frames[0], arrays["points"], arrays["visibility"].astype(bool), arrays["intrinsics"])


def _depth_panels(path: Path) -> Iterator[Panel]:
    yield _depth(_arrays(path, "depths")["depths"][0])


def _arrays(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    arrays = read_arrays(path)[0]
    missing = sorted(set(names) - set(arrays))
    if missing:
        raise ValueError(f"{path.name} lacks {', '.join(missing)}")
    return arrays


def _sample_panels(folder: Path, position: int) -> Iterator[Panel]:
    sample = TrajSceneDataset(folder)[position]
    video = sample.video
    for label, t in (("first frame", 0), ("middle frame", len(video) // 2), ("last frame", len(video) - 1)):
        yield _panel("frame", label, video[t])
    yield _tracks(video[0], sample.points, sample.visibility, sample.intrinsics)
    yield _depth(sample.depth)
    yield from _render_panels("own camera", sample.render, sample.render_mask)
    for name, view in list(sample.views.items())[:1]:
        yield from _render_panels(f"camera {name.replace('_', ' ')}", view.render, view.render_mask)
        if view.video is not None:
            yield _panel("truth", f"truth, camera {name.replace('_', ' ')}, last frame", view.video[-1])


def _render_panels(camera: str, render: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Iterator[Panel]:
    """The last frame, when most has moved out of sight."""
    points = stripe_holes(render[-1:], mask[-1:], WIDTH)[0]
    yield Panel("render", f"points, {camera}, last frame", image_bytes(points, _QUALITY))
    shades = np.repeat(np.where(mask[-1], 255, 0).astype(np.uint8)[..., None], 3, -1)
    covered = f"{mask[-1].mean():.0%} covered"
    yield _panel("mask", f"mask, {camera}, last frame: {covered}", shades)


def _tracks(
    image: Image, points: NDArray[np.floating], visibility: NDArray[np.bool_], intrinsics: NDArray[np.floating]
) -> Panel:
    return Panel("tracks", "tracks", image_bytes(tracks_panel(image, points, visibility, intrinsics, WIDTH), _QUALITY))


def _depth(depth: NDArray[np.floating]) -> Panel:
    return Panel("depth", "depth", image_bytes(depth_panel(depth, WIDTH), _QUALITY), depth_range(depth))


def _panel(kind: str, label: str, image: Image) -> Panel:
    return Panel(kind, label, image_bytes(resize(image[None], WIDTH)[0], _QUALITY))
