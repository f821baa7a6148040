"""The published TrajScene-60K, `<range>.tar.gz` by `<range>.tar.gz`, as shards of ours: one archive, one shard.

Shape letters: T frames, H height, W width, N pixels of the first frame, row by row.
"""

import io
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

import fsspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from more4d.data.header import require_id
from more4d.data.layout import Folder
from more4d.data.safe_pickle import load_arrays
from more4d.data.safe_tar import ArchiveError, ArchiveLimits, iter_members
from more4d.data.sample import Sample, encode_sample
from more4d.data.tables import require_accepted, verdict
from more4d.data.video import probe_video, read_video
from more4d.data.writer import EncodedSample, ShardRecord, finished_shard, seal, write_shard

log = logging.getLogger(__name__)

MEMBERS = {
    "_mask_render_binary.npy": "mask",
    "_mask_render.mp4": "mask_video",
    "_dt3d_render.mp4": "render",
    "_dt3d_pred.pkl": "tracks",
    "_dt3d_pred.pth": "tracks",
    ".mp4": "video",
    ".txt": "caption",
}
"""What stands behind a sample's id in an archive; longer endings first. The lossy mask video is not read."""
_NEEDED = ("caption", "mask", "render", "tracks", "video")
_ONE_SHARD = 2**62
_DARK = 24


class PublishedLayout(BaseModel):
    """What every published sample must measure, and how much of an archive may be rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: int = Field(default=49, gt=0)
    height: int = Field(default=384, gt=0)
    width: int = Field(default=512, gt=0)
    min_visible: float = Field(default=0.8, ge=0, le=1)
    """From where a visibility that is a probability counts as visible."""
    max_grid_error_px: float = Field(default=2.0, gt=0)
    """How far, in the median, the first frame's points may lie from their pixels under the fitted camera."""
    limits: ArchiveLimits = ArchiveLimits()
    max_rejected_share: float = Field(default=0.2, ge=0, le=1)


@dataclass(frozen=True)
class Imported:
    """The manifest of the shards and a row of verdict and reason for every sample and every file left aside."""

    manifest: dict[str, Any]
    verdicts: pd.DataFrame


def import_archives(
    archives: Sequence[str], folder: Path | str, layout: PublishedLayout, *, split: Literal["train", "val"] = "train"
) -> Imported:
    """Shards of published archives (paths or URLs), written to `folder`; archives already there are not read again.

    Raises ArchiveError on an unsafe or damaged archive, whose shard is then not written, and TooManyRejectsError
    before anything is published.
    """
    target = Folder(folder)
    records, tables = [], []
    for archive in archives:
        record, table = _import_archive(archive, target, layout, split)
        records.append(record)
        tables.append(table)
    verdicts = pd.concat(tables, ignore_index=True)
    require_accepted(verdicts, stage="import", max_rejected_share=layout.max_rejected_share)
    manifest = seal(target, split, records)
    target.write(f"{split}.verdicts.parquet", _parquet(verdicts))
    return Imported(manifest, verdicts)


def _import_archive(
    archive: str, target: Folder, layout: PublishedLayout, split: Literal["train", "val"]
) -> tuple[ShardRecord, pd.DataFrame]:
    name = f"{split}-{PurePosixPath(archive).name.removesuffix('.tar.gz')}"
    require_id(name)
    table_name = f"{name}.verdicts.parquet"
    record = finished_shard(target, name)
    if record is not None:
        log.info("%s is done", archive)
        return record, pd.read_parquet(io.BytesIO(target.read(table_name)))
    rows: list[dict[str, str]] = []

    def samples() -> Iterator[EncodedSample]:
        yield from _samples(archive, layout, split, rows)
        # Before the shard's own marker: a shard that counts as done has its verdicts beside it.
        target.write(table_name, _parquet(pd.DataFrame(rows, columns=["archive", "id", "verdict", "reason"])))

    record = write_shard(target, name, samples(), shard_bytes=_ONE_SHARD)
    return record, pd.DataFrame(rows, columns=["archive", "id", "verdict", "reason"])


def _parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, compression="zstd")
    return buffer.getvalue()


def _samples(
    archive: str, layout: PublishedLayout, split: Literal["train", "val"], rows: list[dict[str, str]]
) -> Iterator[EncodedSample]:
    """The accepted samples, each as soon as its last file has come; every sample's verdict goes into `rows`."""
    short = PurePosixPath(archive).name

    def judged(sample_id: str, reasons: list[str]) -> None:
        rows.append({"archive": short, "id": sample_id, **verdict(reasons)})

    with tempfile.TemporaryDirectory() as scratch:
        waiting: dict[str, dict[str, Path]] = {}
        for sample_id, files in _complete(archive, layout.limits, Path(scratch), waiting):
            sample, reasons = _read(sample_id, files, layout, split, short)
            judged(sample_id, reasons)
            if sample is not None:
                yield sample
        for sample_id, files in sorted(waiting.items()):
            judged(sample_id, [f"lacks its {', '.join(kind for kind in _NEEDED if kind not in files)}"])


def _complete(
    archive: str, limits: ArchiveLimits, scratch: Path, waiting: dict[str, dict[str, Path]]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Samples whose files have all come, in the order of their last ones; the others stay in `waiting`.

    Files come in any order, so they wait on the disk, under names of ours.
    """
    done: set[str] = set()
    with fsspec.open(archive, "rb") as stream:
        for number, (path, content) in enumerate(iter_members(stream, archive, limits)):  # type: ignore[arg-type]
            ending = next((ending for ending in MEMBERS if path.name.endswith(ending)), None)
            if ending is None or MEMBERS[ending] == "mask_video":
                continue
            sample_id, kind = path.name.removesuffix(ending), MEMBERS[ending]
            files = waiting.setdefault(sample_id, {})
            if kind in files or sample_id in done:
                raise ArchiveError(f"{archive}: member {str(path)!r} is a second {kind} of sample {sample_id!r}")
            files[kind] = scratch / str(number)
            _spool(content, files[kind])
            if len(files) == len(_NEEDED):
                del waiting[sample_id]
                done.add(sample_id)
                yield sample_id, {kind: file.read_bytes() for kind, file in files.items()}
                for file in files.values():
                    file.unlink()


def _spool(content: IO[bytes], path: Path) -> None:
    with path.open("wb") as stream:
        for block in iter(lambda: content.read(1 << 20), b""):
            stream.write(block)


def _read(
    sample_id: str, files: Mapping[str, bytes], layout: PublishedLayout, split: Literal["train", "val"], archive: str
) -> tuple[EncodedSample | None, list[str]]:
    """The sample, or the reason why it is none."""
    try:
        require_id(sample_id)
        sample = _convert(sample_id, files, layout, split, archive)
    except ValueError as error:
        return None, [str(error)]
    return EncodedSample(sample_id, encode_sample(sample)), []


def _convert(
    sample_id: str, files: Mapping[str, bytes], layout: PublishedLayout, split: Literal["train", "val"], archive: str
) -> Sample:
    shape = (layout.frames, layout.height, layout.width)
    points, visibility = _tracks(files["tracks"], layout)
    video, render = _video(files["video"], "video", shape), _video(files["render"], "render", shape)
    intrinsics, error_px = fit_intrinsics(points[0])
    if not error_px <= layout.max_grid_error_px:
        raise ValueError(f"the first frame's points lie {error_px:.2f} px from their pixels under any camera")
    covered, meaning = _coverage(files["mask"], render)
    fitted = {"intrinsics": "fitted to the first frame's points", "grid_error_px": round(error_px, 4)}
    return Sample(
        id=sample_id, video=video, fps=probe_video(files["video"]).fps, caption=files["caption"].decode().strip(),
        intrinsics=intrinsics, depth=np.ascontiguousarray(points[0, ..., 2]), points=points, visibility=visibility,
        render=render, render_mask=covered, split=split, kind="real",
        provenance={"source": {"dataset": "TrajScene-60K", "archive": archive}, "mask": meaning, **fitted},
    )  # fmt: skip


def _tracks(data: bytes, layout: PublishedLayout) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    arrays = load_arrays(data, "tracks")
    frames, pixels = layout.frames, layout.height * layout.width
    wanted = {"coords": (frames, pixels, 3), "vis": (frames, pixels), "colors": (pixels, 3)}
    for name, shape in wanted.items():
        if name not in arrays:
            raise ValueError(f"tracks lack {name}; they hold {', '.join(sorted(arrays)) or 'nothing'}")
        # A leading batch axis of one is how some of them were saved.
        found = arrays[name][0] if arrays[name].ndim == len(shape) + 1 and len(arrays[name]) == 1 else arrays[name]
        if found.shape != shape:
            raise ValueError(f"tracks: {name} is {list(found.shape)}, {list(shape)} is wanted")
        arrays[name] = found
    grid = (frames, layout.height, layout.width)
    visible = arrays["vis"] if arrays["vis"].dtype == bool else arrays["vis"] > layout.min_visible
    return arrays["coords"].astype(np.float32).reshape(*grid, 3), visible.reshape(grid)


def fit_intrinsics(points_HW3: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """(intrinsics float32 [3, 3], median distance in pixels) of the pinhole camera that sees each point at its pixel.

    The published archives name no camera; the first frame's points and their pixels determine it. Raises ValueError
    where fewer than a tenth of the points lie in front of a camera.
    """
    height, width = points_HW3.shape[:2]
    v, u = np.mgrid[:height, :width] + 0.5
    z = points_HW3[..., 2].astype(np.float64)
    good = np.isfinite(points_HW3).all(-1) & (z > 1e-4)
    if good.mean() < 0.1:
        raise ValueError(f"only {good.mean():.0%} of the first frame's points lie in front of the camera")
    matrix, squares = np.eye(3, dtype=np.float32), np.zeros(int(good.sum()))
    for axis, pixel in enumerate((u, v)):
        slope = points_HW3[..., axis][good] / z[good]
        system = np.stack([slope, np.ones_like(slope)], -1)
        (focal, centre), *_ = np.linalg.lstsq(system, pixel[good], rcond=None)
        if not focal > 0:
            raise ValueError(f"no camera sees the first frame's points in their order: focal length {focal:.1f}")
        matrix[axis, axis], matrix[axis, 2] = focal, centre
        squares += (system @ (focal, centre) - pixel[good]) ** 2
    return matrix, float(np.median(np.sqrt(squares)))


def _video(data: bytes, what: str, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    info = probe_video(data)
    if (info.height, info.width) != shape[1:]:
        raise ValueError(f"the {what} is {info.height}x{info.width}, {shape[1]}x{shape[2]} is wanted")
    video = read_video(data)[0]
    if video.shape != (*shape, 3):
        raise ValueError(f"the {what} is {list(video.shape)}, {[*shape, 3]} is wanted")
    return video


def _coverage(data: bytes, render: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], str]:
    """Where points cover the pixel, and what the mask marked: the render, black in its holes, tells which."""
    mask = np.load(io.BytesIO(data), allow_pickle=False)
    mask = mask[..., 0] if mask.ndim == 4 and mask.shape[-1] == 1 else mask
    if mask.shape != render.shape[:3] or mask.dtype.kind not in "biuf":
        raise ValueError(f"the mask is {mask.dtype} {list(mask.shape)}, {list(render.shape[:3])} numbers are wanted")
    marked = mask > 0
    lit = render.max(-1) > _DARK
    if (marked == lit).mean() >= 0.5:
        return marked, "marks what is covered"
    return ~marked, "marks the holes"
