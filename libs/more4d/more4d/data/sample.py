"""A labeled clip, and its bytes: what training reads and labeling writes.

Shape letters: T frames, H height, W width.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from more4d.data.deferred import deferrable, deferred, is_deferred
from more4d.data.header import SCHEMA_VERSION, TracksHeader, ViewHeader, read_header, require_id
from more4d.data.inflate import inflate
from more4d.data.tracks_codec import decode_tracks, encode_tracks
from more4d.data.video import encode_video, iter_frames, read_video


@deferrable("video", "render", "render_mask")
@dataclass(frozen=True, eq=False)
class SampleView:
    """The clip's points seen by another camera, and the truth where the scene was rendered.

    video uint8 [T, H, W, 3] or None; camera_to_world float32 [T, 4, 4] in the sample's world (frame 0's
    camera); render uint8 [T, H, W, 3], black where nothing is; render_mask bool [T, H, W], True where points
    cover the pixel. All but the cameras may be deferred, as in Sample.
    """

    video: NDArray[np.uint8] | None
    camera_to_world: NDArray[np.float32]
    render: NDArray[np.uint8]
    render_mask: NDArray[np.bool_]


@deferrable("video", "render", "render_mask")
@dataclass(frozen=True, eq=False)
class Sample:
    """A clip with its dense 4D labels, in the frame of its first camera (OpenCV axes, metres).

    video uint8 [T, H, W, 3] RGB; intrinsics float32 [3, 3] pixels; depth float32 [H, W] of frame 0, z in
    metres; points float32 [T, H, W, 3], where the point seen by a first-frame pixel is at time t, NaN where
    unknown; visibility bool [T, H, W]; render and render_mask as in SampleView, from the clip's own camera.

    Of a sample that was read, video, render and render_mask are decoded when first asked for: who needs tracks alone
    waits for nothing else. A damaged one raises ValueError, naming the sample, then.
    """

    id: str
    video: NDArray[np.uint8]
    fps: float
    caption: str
    intrinsics: NDArray[np.float32]
    depth: NDArray[np.float32]
    points: NDArray[np.float32]
    visibility: NDArray[np.bool_]
    render: NDArray[np.uint8]
    render_mask: NDArray[np.bool_]
    split: Literal["train", "val"]
    kind: Literal["rendered", "real"]
    views: Mapping[str, SampleView] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_id(self.id)
        frames, height, width = (self.visibility if is_deferred(self, "video") else self.video).shape[:3]
        _require_shapes(self, frames, height, width)


def encode_sample(sample: Sample, clip: bytes | None = None) -> dict[str, bytes]:
    """Files by extension: exact videos and masks, quantised tracks; the same sample gives the same bytes.

    Tracks are off by at most 0.05 px and 0.1 % of their depth, depth by 0.02 %: see tracks_codec. `clip` is the file
    that the video was read from: where it gives these very frames it is kept as it is: far smaller.
    """
    files: dict[str, bytes] = {
        "video.mp4": clip if clip is not None and _gives(clip, sample.video) else _exact(sample.video, sample.fps),
        "visibility.bin": _pack(sample.visibility),
        "render.mp4": _exact(sample.render, sample.fps),
        "render_mask.bin": _pack(sample.render_mask),
    }
    tracks = encode_tracks(sample.points, sample.depth, sample.intrinsics)
    files |= {f"tracks_{name}.bin": data for name, data in tracks.files.items()}
    for name, view in sample.views.items():
        files |= {f"view_{name}.{key}": data for key, data in _encode_view(view, sample.fps).items()}
    return {"json": _header(sample, tracks.header), **files}


def decode_sample(files: Mapping[str, bytes], *, with_views: bool = True) -> Sample:
    """The sample that encode_sample wrote, or, quicker, the sample without its views.

    Raises ValueError, naming the sample, on another schema version, a header that is wrong, a missing file or damaged
    tracks; on damaged videos and render masks when they are asked for.
    """
    header = read_header(_member(files, "json"))
    stored = _Stored(header.id, files, tuple(header.shape))
    depth, points = stored.tracks(header.tracks)
    return Sample(
        id=header.id,
        video=stored.video("video.mp4"),
        fps=header.fps,
        caption=header.caption,
        intrinsics=np.array(header.intrinsics, np.float32),
        depth=depth,
        points=points,
        visibility=_read_mask(header.id, "visibility.bin", _member(files, "visibility.bin"), stored.shape),
        render=stored.video("render.mp4"),
        render_mask=stored.mask("render_mask.bin"),
        split=header.split,
        kind=header.kind,
        views={name: stored.view(f"view_{name}", view) for name, view in header.views.items() if with_views},
        provenance=header.provenance,
    )


def _header(sample: Sample, tracks: Mapping[str, Any]) -> bytes:
    header = {
        "schema_version": SCHEMA_VERSION,
        "id": sample.id,
        "caption": sample.caption,
        "fps": sample.fps,
        "intrinsics": sample.intrinsics.astype(float).tolist(),
        "kind": sample.kind,
        "provenance": dict(sample.provenance),
        "shape": list(sample.visibility.shape),
        "split": sample.split,
        "tracks": dict(tracks),
        "views": {name: {"truth": view.video is not None} for name, view in sample.views.items()},
    }
    return json.dumps(header, sort_keys=True, allow_nan=False).encode()


def _encode_view(view: SampleView, fps: float) -> dict[str, bytes]:
    files = {
        "camera.bin": np.ascontiguousarray(view.camera_to_world, "<f4").tobytes(),
        "render.mp4": _exact(view.render, fps),
        "render_mask.bin": _pack(view.render_mask),
    }
    if view.video is not None:
        files["video.mp4"] = _exact(view.video, fps)
    return files


@dataclass(frozen=True)
class _Stored:
    """A stored sample's files, decoded when somebody asks."""

    id: str
    files: Mapping[str, bytes]
    shape: tuple[int, ...]

    def video(self, name: str) -> NDArray[np.uint8]:
        return deferred(partial(_read_video, self.id, name, _member(self.files, name), self.shape))

    def mask(self, name: str) -> NDArray[np.bool_]:
        return deferred(partial(_read_mask, self.id, name, _member(self.files, name), self.shape))

    def tracks(self, header: TracksHeader) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        files = {key[7:-4]: data for key, data in self.files.items() if key.startswith("tracks_")}
        try:
            return decode_tracks(header.model_dump(exclude_none=True), files, self.shape)
        except ValueError as error:
            raise ValueError(f"sample {self.id}: {error}") from error

    def view(self, prefix: str, header: ViewHeader) -> SampleView:
        return SampleView(
            video=self.video(f"{prefix}.video.mp4") if header.truth else None,
            camera_to_world=self._camera(f"{prefix}.camera.bin"),
            render=self.video(f"{prefix}.render.mp4"),
            render_mask=self.mask(f"{prefix}.render_mask.bin"),
        )

    def _camera(self, name: str) -> NDArray[np.float32]:
        data, frames = _member(self.files, name), self.shape[0]
        if len(data) != frames * 64:
            raise ValueError(f"sample {self.id}: its {name} is {len(data)} bytes, its header wants {frames * 64}")
        return np.frombuffer(data, "<f4").reshape(frames, 4, 4).astype(np.float32)


def _read_video(sample_id: str, name: str, data: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    video = np.empty((*shape, 3), np.uint8)
    try:
        found = _fill(video, data)
    except ValueError as error:
        raise ValueError(f"sample {sample_id}: its {name} is damaged: {error}") from error
    if found != video.shape:
        longer = "" if found[0] < len(video) and found[1:] == video.shape[1:] else " or longer"
        raise ValueError(f"sample {sample_id}: its {name} is {list(found)}{longer}, its header wants {[*shape, 3]}")
    return video


def _fill(video: NDArray[np.uint8], data: bytes) -> tuple[int, ...]:
    """The shape of what was decoded: reading ends at the first frame of another size, and at the first too many."""
    count = 0
    for count, (_, image) in enumerate(iter_frames(data), start=1):
        if count > len(video) or image.shape != video.shape[1:]:
            return count, *image.shape
        video[count - 1] = image
    return count, *video.shape[1:]


def _read_mask(sample_id: str, name: str, data: bytes, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    count = int(np.prod(shape))
    try:
        packed = np.frombuffer(inflate(data, (count + 7) // 8), np.uint8)
    except ValueError as error:
        raise ValueError(f"sample {sample_id}: its {name} is {error}") from error
    return np.unpackbits(packed, count=count).view(np.bool_).reshape(shape)


def _gives(clip: bytes, video: NDArray[np.uint8]) -> bool:
    return np.array_equal(read_video(clip)[0], video)


def _exact(video: NDArray[np.uint8], fps: float) -> bytes:
    return encode_video(video, fps, lossless=True, preset="veryfast")


def _pack(mask: NDArray[np.bool_]) -> bytes:
    return zlib.compress(np.packbits(mask).tobytes(), 6)


def _member(files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise ValueError(f"a sample lacks its {name}; it holds {', '.join(sorted(files)) or 'nothing'}")
    return files[name]


def _require_shapes(sample: Sample, frames: int, height: int, width: int) -> None:
    video, mask = (frames, height, width, 3), (frames, height, width)
    # What is deferred is held against its header when it is decoded.
    for name, shape in {"intrinsics": (3, 3), "depth": (height, width), "points": video, "visibility": mask}.items():
        _require_shape(sample, sample, name, name, shape)
    seen = {"": sample, **{f"{name}'s ": view for name, view in sample.views.items()}}
    for prefix, source in seen.items():
        for name, shape in {"video": video, "render": video, "render_mask": mask}.items():
            _require_shape(sample, source, name, f"{prefix}{name}", shape)
    for name, view in sample.views.items():
        _require_shape(sample, view, "camera_to_world", f"{name}'s camera_to_world", (frames, 4, 4))


def _require_shape(
    sample: Sample, source: Sample | SampleView, field_name: str, name: str, shape: tuple[int, ...]
) -> None:
    array = None if is_deferred(source, field_name) else getattr(source, field_name)
    if array is not None and array.shape != shape:
        raise ValueError(f"sample {sample.id}: {name} is {list(array.shape)}, its video wants {list(shape)}")
