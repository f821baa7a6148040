"""A generated scene and its folder: scene.json, tracks.safetensors, image.png, depth.png, views, index.html.

Shape letters: T frames, H height, W width. World frame: the camera of frame 0 (OpenCV axes), metres.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from more4d.data.atomic import atomic_directory
from more4d.data.hashing import hash_file
from more4d.data.video import encode_video, read_video

SCHEMA_VERSION = 1
TRACKS, IMAGE, DEPTH, DESCRIPTION, PAGE = "tracks.safetensors", "image.png", "depth.png", "scene.json", "index.html"
_MOTION_LEVELS = 32_767
# The slower presets' macroblock tree reads memory that x264 never wrote: small pictures get other bytes in every run.
_PRESET = "superfast"
_DEPTH_LEVELS = 65_535

Page = Callable[["Scene"], str]
"""Makes a scene's index.html; its links are relative to the scene's folder."""


@dataclass(frozen=True, eq=False)
class CameraView:
    """A scene seen along one camera path.

    camera_to_world float32 [T,4,4]; video (completed) and render (the points alone, black elsewhere) uint8 [T,H,W,3];
    covered bool [T,H,W], True where a point was seen: there video and render agree.
    """

    camera_to_world: NDArray[np.float32]
    video: NDArray[np.uint8]
    render: NDArray[np.uint8]
    covered: NDArray[np.bool_]


@dataclass(frozen=True)
class ModelRecord:
    """One file of weights that a scene was made with."""

    file: str
    sha256: str
    licence: str


@dataclass(frozen=True)
class Credit:
    """Where a scene's photo comes from."""

    source: str
    attribution: str = ""
    licence: str = ""


@dataclass(frozen=True, eq=False)
class Scene:
    """One photo and sentence as a moving point cloud, with its videos.

    image uint8 [H,W,3]; intrinsics float32 [3,3] in its pixels; points float32 [T,H,W,3], where the thing seen by each of
    the image's pixels is at time t (not finite or z <= 0: none); visibility bool [T,H,W], seen from the first camera.
    settings: what the generation was asked for. timings in seconds. checks: measured facts about the result.
    Raises ValueError where the shapes disagree.
    """

    name: str
    prompt: str
    seed: int
    fps: float
    image: NDArray[np.uint8]
    intrinsics: NDArray[np.float32]
    points: NDArray[np.float32]
    visibility: NDArray[np.bool_]
    views: Mapping[str, CameraView] = field(default_factory=dict)
    models: tuple[ModelRecord, ...] = ()
    credit: Credit = field(default_factory=lambda: Credit(""))
    settings: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    checks: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames, height, width = self.points.shape[:3]
        video, mask = (frames, height, width, 3), (frames, height, width)
        wanted = [("image", self.image, video[1:]), ("points", self.points, video)]
        wanted += [("visibility", self.visibility, mask), ("intrinsics", self.intrinsics, (3, 3))]
        for name, view in self.views.items():
            wanted += [(f"{name}'s {key}", getattr(view, key), video) for key in ("video", "render")]
            wanted += [
                (f"{name}'s mask", view.covered, mask),
                (f"{name}'s poses", view.camera_to_world, (frames, 4, 4)),
            ]
        for label, array, shape in wanted:
            if array.shape != shape:
                raise ValueError(f"scene {self.name}: {label} is {list(array.shape)}, its points want {list(shape)}")

    @property
    def valid(self) -> NDArray[np.bool_]:
        """[H,W], True where the image's pixel has a point."""
        first = self.points[0]
        return np.isfinite(first).all(-1) & (first[..., 2] > 0)

    @property
    def depth(self) -> NDArray[np.float32]:
        """[H,W] first-frame depth in metres, 0 where there is none."""
        return np.where(self.valid, self.points[0, ..., 2], 0).astype(np.float32)


def write_scene(scene: Scene, folder: Path, *, page: Page | None = None) -> str:
    """The scene's hash, after its folder was written as a whole: on failure the old folder, or none, is there.

    The hash covers everything but scene.json (timings) and index.html. Tracks lose up to half a step of 2**-15 of the
    largest motion on each axis; lossy are the completed and rendered videos alone.
    """
    with atomic_directory(folder) as partial:
        (partial / "views").mkdir()
        (partial / TRACKS).write_bytes(_encode_tracks(scene))
        _write_png(partial / IMAGE, scene.image)
        scale = _write_depth(partial / DEPTH, scene.depth)
        for name, view in scene.views.items():
            for end, video in (("", view.video), (".render", view.render)):
                data = encode_video(video, scene.fps, preset=_PRESET)
                (partial / "views" / f"{name}{end}.mp4").write_bytes(data)
            mask = encode_video(_as_video(view.covered), scene.fps, lossless=True)
            (partial / "views" / f"{name}.mask.mp4").write_bytes(mask)
        files = hash_files(partial)
        description = _describe(scene, files, depth_scale=scale)
        (partial / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True, allow_nan=False) + "\n")
        if page is not None:
            (partial / PAGE).write_text(page(scene), encoding="utf-8")
    return description["scene_hash"]


def read_scene(folder: Path, *, verify: bool = True) -> Scene:
    """The scene of a folder. Raises ValueError naming the file that is missing, changed (`verify`) or does not fit."""
    description = read_description(folder)
    if verify:
        _verify(folder, description)
    points, visibility = _decode_tracks(folder / TRACKS)
    cameras = description["cameras"]
    views = {name: _read_view(folder, name, np.array(poses, np.float32)) for name, poses in cameras.items()}
    return Scene(
        name=description["name"],
        prompt=description["prompt"],
        seed=description["seed"],
        fps=description["fps"],
        image=_read_png(folder / IMAGE),
        intrinsics=np.array(description["intrinsics"], np.float32),
        points=points,
        visibility=visibility,
        views=views,
        models=tuple(ModelRecord(**record) for record in description["models"]),
        credit=Credit(**description["credit"]),
        settings=description["settings"],
        timings=description["timings"],
        checks=description["checks"],
    )


def read_description(folder: Path) -> dict[str, Any]:
    """What scene.json says. Raises ValueError where the folder is no scene or has another schema version."""
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{folder} is not a scene folder: it has no {DESCRIPTION}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / DESCRIPTION} is not JSON: {error}") from error
    version = description.get("schema_version") if isinstance(description, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(f"{folder / DESCRIPTION} has schema version {version}, this code reads {SCHEMA_VERSION}")
    return description


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under `folder` that a scene's hash covers, by relative name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (DESCRIPTION, PAGE))
    return {str(path.relative_to(folder)): hash_file(path) for path in files}


def _describe(scene: Scene, files: dict[str, str], *, depth_scale: float) -> dict[str, Any]:
    frames, height, width = scene.visibility.shape
    return {
        "schema_version": SCHEMA_VERSION,
        "name": scene.name,
        "prompt": scene.prompt,
        "seed": scene.seed,
        "frames": frames,
        "height": height,
        "width": width,
        "fps": scene.fps,
        "intrinsics": scene.intrinsics.astype(float).tolist(),
        "cameras": {name: view.camera_to_world.astype(float).tolist() for name, view in scene.views.items()},
        "depth_png_metres_per_unit": depth_scale,
        "models": [vars(record) for record in scene.models],
        "credit": vars(scene.credit),
        "settings": dict(scene.settings),
        "timings": dict(scene.timings),
        "checks": dict(scene.checks),
        "files": files,
        "scene_hash": hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest(),
    }


def _verify(folder: Path, description: dict[str, Any]) -> None:
    found = hash_files(folder)
    for name, sha256 in description["files"].items():
        if name not in found:
            raise ValueError(f"scene {folder} lacks {name}; generate it again")
        if found[name] != sha256:
            raise ValueError(f"{folder / name} is not the file that {DESCRIPTION} names: its SHA-256 differs")


def _encode_tracks(scene: Scene) -> bytes:
    """P0 as it is, motion relative to it in steps of each axis, visibility as bits, colours."""
    points0 = np.where(scene.valid[..., None], scene.points[0], 0).astype(np.float32)
    motion = np.where(scene.valid[..., None], scene.points - scene.points[0], 0)
    if not np.isfinite(motion).all():
        bad = int((~np.isfinite(motion).all(-1)).sum())
        raise ValueError(f"scene {scene.name}: {bad} of {motion[..., 0].size} positions are not finite")
    step = np.maximum(np.abs(motion).max((0, 1, 2)) / _MOTION_LEVELS, 1e-9).astype(np.float32)
    return save_tensors(
        {
            "points0": points0,
            "motion": np.rint(motion / step).astype(np.int16),
            "motion_step": step,
            "visibility": np.packbits(scene.visibility, axis=-1),
            "colours": np.ascontiguousarray(scene.image),
        }
    )


def _decode_tracks(path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    try:
        tensors = load_tensors(path.read_bytes())
    except (FileNotFoundError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as tracks: {error}") from error
    missing = {"points0", "motion", "motion_step", "visibility"} - set(tensors)
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}")
    motion = tensors["motion"].astype(np.float32) * tensors["motion_step"]
    points = np.asarray(tensors["points0"] + motion, np.float32)
    visibility = np.unpackbits(tensors["visibility"], axis=-1, count=points.shape[2])
    return points, visibility.astype(bool)


def _read_view(folder: Path, name: str, camera_to_world: NDArray[np.float32]) -> CameraView:
    stem = folder / "views" / name
    video, render, mask = (read_video(stem.with_name(f"{name}{end}.mp4"))[0] for end in ("", ".render", ".mask"))
    return CameraView(camera_to_world, video, render, mask[..., 0] > 127)


def _as_video(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=-1)


def _write_depth(path: Path, depth: NDArray[np.float32]) -> float:
    """Metres per unit of the 16-bit PNG; 0 stands for no depth."""
    scale = max(float(depth.max()), 1e-6) / _DEPTH_LEVELS
    _write_png(path, np.rint(depth / scale).astype(np.uint16))
    return scale


def _write_png(path: Path, image: NDArray[Any]) -> None:
    picture = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    done, data = cv2.imencode(".png", picture)
    assert done, f"OpenCV cannot encode {image.dtype} {image.shape}"
    path.write_bytes(data.tobytes())


def _read_png(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) if path.exists() else None
    if image is None:
        raise ValueError(f"{path} is missing or not a picture")
    return np.asarray(image, np.uint8)
