"""One photo and one sentence to a scene: depth, trajectories, a point for every pixel, renders, completed views.

Shape letters: T frames, H height, W width of the scene; h, w of the networks.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import from_numpy
from tqdm import tqdm

from more4d.geometry.cameras import intrinsics_from_fov, move_intrinsics
from more4d.geometry.images import fit_image
from more4d.geometry.paths import CAMERA_NAMES, camera_path, known_camera, scene_centre
from more4d.inference.densify import densify
from more4d.inference.files import fit_depth
from more4d.inference.render import render_path, stretch, visible_points
from more4d.inference.scene import CameraView, Credit, ModelRecord, Scene
from more4d.inference.smoothing import smooth_motion
from more4d.inference.trajectories import generate_trajectories
from more4d.inference.views import complete_view
from more4d.models.bundle import Models
from more4d.models.licences import read_licence

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Photo = NDArray[np.uint8]
MAX_RENDER_SCALE = 16
MOVING_SHARE = 0.01
"""A point moves when it is displaced, at some frame, by more than this share of its first-frame depth."""


@dataclass(frozen=True)
class Request:
    """What to make of a photo. Raises ValueError on an empty prompt, an unknown camera, or a number out of range.

    steps and guidance: None takes the checkpoint's own. The camera: intrinsics (fx, fy, cx, cy) in the upright photo's
    pixels, or fov_x_degrees, or the depth network's estimate. depth [rows, columns] in metres belongs to the whole photo.
    """

    prompt: str
    cameras: tuple[str, ...]
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    fov_x_degrees: float | None = None
    intrinsics: tuple[float, float, float, float] | None = None
    depth: Floats | None = field(default=None, compare=False)
    camera_amount: float = 0.6
    """How far the cameras go, 1 for the whole path (see `camera_path`); further shows more of what was not seen."""
    motion_smoothing: float = 300.0
    """How strongly neighbours on one surface move alike (see `smooth_motion`); 0 leaves the prediction as it is."""
    render_scale: int = 4
    complete: bool = True

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError("the prompt is empty; say what moves and where to")
        for name in self.cameras:
            known_camera(name)
        if not self.cameras:
            raise ValueError(f"no camera was named; the cameras are {', '.join(CAMERA_NAMES)}")
        if not 1 <= self.render_scale <= MAX_RENDER_SCALE:
            raise ValueError(f"render scale {self.render_scale} must lie between 1 and {MAX_RENDER_SCALE}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps={self.steps} must be at least 1")
        if self.guidance is not None and not (math.isfinite(self.guidance) and self.guidance >= 1):
            raise ValueError(f"guidance={self.guidance} must be at least 1 (1: none)")
        if not (math.isfinite(self.camera_amount) and 0 < self.camera_amount <= 3):
            raise ValueError(f"camera amount {self.camera_amount} must lie above 0 and not above 3")
        if not (math.isfinite(self.motion_smoothing) and self.motion_smoothing >= 0):
            raise ValueError(f"motion smoothing {self.motion_smoothing} must be 0 or more")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must not be negative")
        self._require_one_camera_model()

    def _require_one_camera_model(self) -> None:
        if self.fov_x_degrees is not None and self.intrinsics is not None:
            raise ValueError("give a field of view or intrinsics, not both")
        if self.fov_x_degrees is not None and not 1 < self.fov_x_degrees < 179:
            raise ValueError(f"a field of view of {self.fov_x_degrees} degrees must lie between 1 and 179")
        if self.intrinsics is not None and not (
            all(math.isfinite(x) for x in self.intrinsics) and min(self.intrinsics[:2]) > 0
        ):
            raise ValueError(f"intrinsics {self.intrinsics} must be finite fx, fy, cx, cy with positive focal lengths")


@dataclass
class _Clock:
    """Seconds of each step, under one progress bar."""

    bar: tqdm
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.bar.set_postfix_str(name)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)
        self.bar.update()


def generate_scene(models: Models, photo: Photo, request: Request, *, name: str, credit: Credit | None = None) -> Scene:
    """The scene of an upright RGB `photo` uint8, at `render_scale` times the networks' size.

    Deterministic in (photo, request, checkpoint) on one machine type and thread count. Raises ValueError where the given
    depth does not fit the photo.
    """
    size = models.config.generation
    steps = 3 + len(set(request.cameras)) * (2 if request.complete else 1)
    clock = _Clock(tqdm(total=steps, desc=name, unit="step"))
    fine, crop = fit_image(photo, size.height * request.render_scale, size.width * request.render_scale)
    coarse = _shrunk(fine, (size.height, size.width))
    given = _given_intrinsics(request, photo)
    known = None if given is None else stretch(move_intrinsics(given, crop).numpy(), 1 / request.render_scale)
    with clock.step("depth"):
        depth, camera = _depth(models, coarse, known, request.depth, photo, crop.box)
    with clock.step("trajectories"):
        points = _trajectories(models, coarse, request, depth, camera)
    fine_camera = stretch(camera, request.render_scale)
    with clock.step("densify"):
        dense = densify(points, fine, fine_camera)
        visibility = visible_points(dense, fine_camera)
    centre = scene_centre(from_numpy(depth))
    paths = {
        path: camera_path(path, size.frames, centre=centre, amount=request.camera_amount).float().numpy()
        for path in request.cameras
    }
    views = {
        path: _view(models, clock, dense, fine, fine_camera, poses, request, path) for path, poses in paths.items()
    }
    clock.bar.close()
    return Scene(
        name=name,
        prompt=request.prompt,
        seed=request.seed,
        fps=size.fps,
        image=fine,
        intrinsics=fine_camera,
        points=dense,
        visibility=visibility,
        views=views,
        models=model_records(models),
        credit=credit or Credit(""),
        settings=_settings(models, request),
        timings={**clock.seconds, "total": round(sum(clock.seconds.values()), 3)},
        checks=check(dense, fine, fine_camera, views),
    )


def model_records(models: Models) -> tuple[ModelRecord, ...]:
    """The weights that `models` was loaded from, with their licences; none for networks that were just made."""
    hashes: Mapping[str, str] = models.hashes
    return tuple(ModelRecord(n, sha256, read_licence(n, models.files[n])) for n, sha256 in hashes.items())


def check(points: Floats, image: Photo, intrinsics: Floats, views: Mapping[str, CameraView]) -> dict[str, float]:
    """Facts about a result: how faithful its first frame is, how much has points and moves, what the views miss."""
    first, covered = render_path(points[:1], image, intrinsics, np.eye(4, dtype=np.float32)[None])
    error = np.square(first[0].astype(float) - image)[covered[0]].mean() if covered.any() else np.inf
    valid = np.isfinite(points).all((0, -1))
    moved = np.linalg.norm(points - points[0], axis=-1).max(0) > MOVING_SHARE * points[0, ..., 2]
    shares = {f"least_covered_share/{name}": float(view.covered.mean((1, 2)).min()) for name, view in views.items()}
    return {
        "first_frame_psnr_db": round(float(10 * np.log10(255**2 / max(error, 1e-3))), 3),
        "points_share": float(valid.mean()),
        "moving_share": float(moved[valid].mean()) if valid.any() else 0.0,
        **shares,
    }


def fill_holes(render: Photo, covered: NDArray[np.bool_], completed: Photo) -> Photo:
    """`render` [T,H,W,3] with its holes filled from the smaller `completed` [T,h,w,3]; covered pixels stay as they are.

    The fill is shifted by the mean difference along the hole's rim, so that no seam shows.
    """
    height, width = covered.shape[1:]
    filled = render.copy()
    for frame, (image, mask, small) in enumerate(zip(render, covered, completed, strict=True)):
        fill = cv2.resize(small.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        fill = fill + _rim_difference(image - fill, mask)
        filled[frame] = np.where(mask[..., None], image, np.rint(fill).clip(0, 255).astype(np.uint8))
    return filled


def _rim_difference(difference: Floats, known: NDArray[np.bool_]) -> Floats:
    """`difference` [H,W,3] spread from the `known` pixels [H,W] into the others: the nearest rim's, far away the mean."""
    size = max(known.shape)
    spread = np.zeros(difference.shape, np.float32)
    if known.any():
        spread += difference[known].mean(0)
    for reach in (size / 6, size / 24, size / 96):
        weight = cv2.GaussianBlur(known.astype(np.float32), (0, 0), reach)[..., None]
        total = cv2.GaussianBlur(difference * known[..., None], (0, 0), reach)
        spread = np.asarray((total + 0.02 * spread) / (weight + 0.02), np.float32)
    return spread


def shrink(render: Photo, covered: NDArray[np.bool_], size: tuple[int, int]) -> tuple[Photo, NDArray[np.bool_]]:
    """Render [T,h,w,3] and covered [T,h,w] at the networks' size: the mean of what is covered, where half of it is."""
    images, masks = [], []
    for image, mask in zip(render, covered, strict=True):
        share = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
        total = cv2.resize(image * mask[..., None].astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
        known = share >= 0.5
        images.append(np.where(known[..., None], total / np.maximum(share, 1e-6)[..., None], 0))
        masks.append(known)
    return np.rint(np.stack(images)).clip(0, 255).astype(np.uint8), np.stack(masks)


def _shrunk(photo: Photo, size: tuple[int, int]) -> Photo:
    """The photo at (rows, columns), each the mean of the pixels it stands for."""
    return np.asarray(cv2.resize(photo, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def _view(
    models: Models,
    clock: _Clock,
    points: Floats,
    photo: Photo,
    intrinsics: Floats,
    poses: Floats,
    request: Request,
    path: str,
) -> CameraView:
    with clock.step(f"render/{path}"):
        render, covered = render_path(points, photo, intrinsics, poses)
    if not request.complete:
        return CameraView(poses, render, render, covered)
    size = models.config.generation
    with clock.step(f"complete/{path}"):
        small, known = shrink(render, covered, (size.height, size.width))
        picture = _shrunk(photo, (size.height, size.width))
        completed = complete_view(models, small, known, picture, request.prompt, **_sampling(models, request))
        video = fill_holes(render, covered, completed)
    return CameraView(poses, video, render, covered)


def _trajectories(models: Models, picture: Photo, request: Request, depth: Floats, camera: Floats) -> Floats:
    """Points [T,h,w,3]; where there is no depth, NaN."""
    usable = np.where(depth > 0, depth, np.median(depth[depth > 0])).astype(np.float32)
    points = generate_trajectories(
        models, picture, request.prompt, depth=usable, intrinsics=camera, **_sampling(models, request)
    )
    known = np.where((depth > 0)[..., None], points, np.nan).astype(np.float32)
    return smooth_motion(known, picture, request.motion_smoothing)


def _sampling(models: Models, request: Request) -> dict[str, Any]:
    own = models.config.generation
    return {
        "steps": own.steps if request.steps is None else request.steps,
        "guidance": own.guidance if request.guidance is None else request.guidance,
        "seed": request.seed,
    }


def _settings(models: Models, request: Request) -> dict[str, Any]:
    return {
        **_sampling(models, request),
        "fov_x_degrees": request.fov_x_degrees,
        "intrinsics": request.intrinsics and list(request.intrinsics),
        "depth": "network" if request.depth is None else "given",
        "camera_amount": request.camera_amount,
        "motion_smoothing": request.motion_smoothing,
        "render_scale": request.render_scale,
        "complete": request.complete,
    }


def _given_intrinsics(request: Request, photo: Photo) -> torch.Tensor | None:
    if request.fov_x_degrees is not None:
        return intrinsics_from_fov(photo.shape[0], photo.shape[1], request.fov_x_degrees)
    if request.intrinsics is not None:
        fx, fy, cx, cy = request.intrinsics
        return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return None


def _depth(
    models: Models,
    picture: Photo,
    camera: Floats | None,
    given: Floats | None,
    photo: Photo,
    box: tuple[float, float, float, float],
) -> tuple[Floats, Floats]:
    """Depth [h,w] in metres (0: none) and intrinsics [3,3] at the networks' size: what was given, else the network's."""
    known = None if camera is None else from_numpy(camera)[None]
    with torch.no_grad():
        predicted = models.depth.infer(from_numpy(picture).permute(2, 0, 1)[None], known)
    depth = predicted.depth[0].float().numpy()
    if given is not None:
        depth = fit_depth(given, photo.shape[:2], box, picture.shape[:2])
    return depth, predicted.intrinsics[0].float().numpy()
