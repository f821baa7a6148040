"""A labeled clip, and its bytes: what training reads and labeling writes.

Shape letters: T frames, H height, W width.
"""

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from more4d.data.tracks_codec import decode_tracks, encode_tracks
from more4d.data.video import encode_video, read_video

SCHEMA_VERSION = 2
"""What is written. Version 1 had deflated tracks, and an index a shard instead of one for all."""
READABLE = (1, 2)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,79}")


@dataclass(frozen=True, eq=False)
class SampleView:
    """The clip's points seen by another camera, and the truth where the scene was rendered.

    video uint8 [T, H, W, 3] or None; camera_to_world float32 [T, 4, 4] in the sample's world (frame 0's
    camera); render uint8 [T, H, W, 3], black where nothing is; render_mask bool [T, H, W], True where points
    cover the pixel.
    """

    video: NDArray[np.uint8] | None
    camera_to_world: NDArray[np.float32]
    render: NDArray[np.uint8]
    render_mask: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Sample:
    """A clip with its dense 4D labels, in the frame of its first camera (OpenCV axes, metres).

    video uint8 [T, H, W, 3] RGB; intrinsics float32 [3, 3] pixels; depth float32 [H, W] of frame 0, z in
    metres; points float32 [T, H, W, 3], where the point seen by a first-frame pixel is at time t, NaN where
    unknown; visibility bool [T, H, W]; render and render_mask as in SampleView, from the clip's own camera.
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
        frames, height, width = self.video.shape[:3]
        _require_shapes(self, frames, height, width)


def require_id(sample_id: str) -> None:
    """Raises ValueError unless the id can be a file name: letters, digits, `_` and `-`, at most 80."""
    if not _ID.fullmatch(sample_id):
        raise ValueError(f"{sample_id!r} cannot be a sample's id: use letters, digits, _ and -, at most 80")


def require_schema(header: Mapping[str, Any], name: str) -> None:
    """Raises ValueError unless the header's schema_version is one that this code reads."""
    found = header.get("schema_version")
    if found not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise ValueError(f"{name} has schema version {found}, this code reads {known}: update it")


def encode_sample(sample: Sample) -> dict[str, bytes]:
    """Files by extension: exact videos and masks, quantised tracks; the same sample gives the same bytes.

    Tracks are off by at most 0.05 px and 0.1 % of their depth, depth by 0.02 %: see tracks_codec.
    """
    files: dict[str, bytes] = {
        "video.mp4": _exact(sample.video, sample.fps),
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

    Raises ValueError on another schema version or a missing file.
    """
    header = json.loads(_member(files, "json"))
    require_schema(header, f"sample {header.get('id')}")
    shape = tuple(header["shape"])
    names = [name for name in header["views"] if with_views]
    tracks = {key[7:-4]: data for key, data in files.items() if key.startswith("tracks_")}
    depth, points = decode_tracks(header["tracks"], tracks, shape)
    return Sample(
        id=header["id"],
        video=read_video(_member(files, "video.mp4"))[0],
        fps=header["fps"],
        caption=header["caption"],
        intrinsics=np.array(header["intrinsics"], np.float32),
        depth=depth,
        points=points,
        visibility=_unpack(_member(files, "visibility.bin"), shape),
        render=read_video(_member(files, "render.mp4"))[0],
        render_mask=_unpack(_member(files, "render_mask.bin"), shape),
        split=header["split"],
        kind=header["kind"],
        views={name: _decode_view(files, name, header["views"][name], shape) for name in names},
        provenance=header["provenance"],
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


def _decode_view(
    files: Mapping[str, bytes], name: str, header: Mapping[str, Any], shape: tuple[int, ...]
) -> SampleView:
    camera = np.frombuffer(_member(files, f"view_{name}.camera.bin"), "<f4").reshape(shape[0], 4, 4)
    return SampleView(
        video=read_video(_member(files, f"view_{name}.video.mp4"))[0] if header["truth"] else None,
        camera_to_world=camera.astype(np.float32),
        render=read_video(_member(files, f"view_{name}.render.mp4"))[0],
        render_mask=_unpack(_member(files, f"view_{name}.render_mask.bin"), shape),
    )


def _exact(video: NDArray[np.uint8], fps: float) -> bytes:
    return encode_video(video, fps, lossless=True, preset="veryfast")


def _pack(mask: NDArray[np.bool_]) -> bytes:
    return zlib.compress(np.packbits(mask).tobytes(), 6)


def _unpack(data: bytes, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    bits = np.unpackbits(np.frombuffer(zlib.decompress(data), np.uint8), count=int(np.prod(shape)))
    return bits.astype(bool).reshape(shape)


def _member(files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise ValueError(f"a sample lacks its {name}; it holds {', '.join(sorted(files)) or 'nothing'}")
    return files[name]


def _require_shapes(sample: Sample, frames: int, height: int, width: int) -> None:
    video, mask = (frames, height, width, 3), (frames, height, width)
    expected: dict[str, tuple[NDArray[Any], tuple[int, ...]]] = {
        "intrinsics": (sample.intrinsics, (3, 3)),
        "depth": (sample.depth, (height, width)),
        "points": (sample.points, video),
        "visibility": (sample.visibility, mask),
        "render": (sample.render, video),
        "render_mask": (sample.render_mask, mask),
    }
    for name, view in sample.views.items():
        expected[f"{name}'s camera_to_world"] = (view.camera_to_world, (frames, 4, 4))
        expected[f"{name}'s render"] = (view.render, video)
        expected[f"{name}'s render_mask"] = (view.render_mask, mask)
        if view.video is not None:
            expected[f"{name}'s video"] = (view.video, video)
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise ValueError(f"sample {sample.id}: {name} is {list(array.shape)}, its video wants {list(shape)}")
