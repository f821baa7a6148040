"""Trajectories from a scene folder or a file, and the folder that says what the motion VAE kept of them.

Shape letters: T frames, H height, W width.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from more4d.data.atomic import atomic_directory, atomic_write_json
from more4d.data.video import encode_video
from more4d.inference.reconstruction import Reconstruction
from more4d.inference.scene import read_scene
from more4d.models.conversion.names import listed

TRACKS, LATENT, ERROR_MAP, MOTION_MAP, METRICS = (
    "tracks.safetensors", "latent.safetensors", "error.png", "motion_map.mp4", "metrics.json",
)  # fmt: skip
_DEFAULT_FPS = 8.0
# The colour scale's end: a few outliers must not turn the rest of the map black.
_SCALE_QUANTILE = 0.99


@dataclass(frozen=True, eq=False)
class Tracks:
    """Trajectories of one image's pixels.

    points float32 [T,H,W,3] in metres in the first camera's frame; intrinsics float32 [3,3] in pixels; visibility bool
    [T,H,W]. Raises ValueError where the shapes disagree.
    """

    points: NDArray[np.float32]
    intrinsics: NDArray[np.float32]
    visibility: NDArray[np.bool_]
    fps: float = _DEFAULT_FPS

    def __post_init__(self) -> None:
        if self.points.ndim != 4 or self.points.shape[-1] != 3:
            raise ValueError(f"points must be [T,H,W,3], not {list(self.points.shape)}")
        if self.visibility.shape != self.points.shape[:3] or self.intrinsics.shape != (3, 3):
            raise ValueError(
                f"points {list(self.points.shape)} need visibility {list(self.points.shape[:3])} and intrinsics [3, 3], "
                f"not {list(self.visibility.shape)} and {list(self.intrinsics.shape)}"
            )


def read_tracks(source: Path) -> Tracks:
    """The trajectories of a scene folder, or of a safetensors file with points, intrinsics and, if known, visibility.

    Raises ValueError naming the file and what is missing or does not fit.
    """
    if source.is_dir():
        scene = read_scene(source)
        known = np.where(scene.valid[..., None], scene.points, np.nan).astype(np.float32)
        return Tracks(known, scene.intrinsics, scene.visibility, scene.fps)
    try:
        tensors = load_file(source)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{source} cannot be read as a scene folder or a safetensors file: {error}") from error
    if missing := sorted({"points", "intrinsics"} - tensors.keys()):
        raise ValueError(f"{source} lacks {', '.join(missing)}; it holds {listed(sorted(tensors)) or 'nothing'}")
    points = tensors["points"].astype(np.float32)
    visibility = tensors.get("visibility", np.ones(points.shape[:3], bool)).astype(bool)
    try:
        return Tracks(points, tensors["intrinsics"].astype(np.float32), visibility)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def write_reconstruction(found: Reconstruction, given: Tracks, folder: Path) -> dict[str, float]:
    """The measures of eq. 7, after the folder was written as a whole.

    It holds the decoded trajectories (in the form that `read_tracks` reads), the latent, the error and motion maps to
    look at, and the measures. Raises ValueError where the folder exists or nothing can be measured.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists; choose another --out")
    measures = found.measures(given.points, given.visibility)
    decoded = {"points": found.points, "intrinsics": given.intrinsics, "visibility": given.visibility}
    with atomic_directory(folder) as partial:
        save_file({name: np.ascontiguousarray(value) for name, value in decoded.items()}, partial / TRACKS)
        save_file({"latent": np.ascontiguousarray(found.latent)}, partial / LATENT)
        error_figure(found).savefig(partial / ERROR_MAP, dpi=150)
        (partial / MOTION_MAP).write_bytes(encode_video(found.motion_map, given.fps))
        atomic_write_json(partial / METRICS, measures)
    return measures


def error_figure(found: Reconstruction) -> Figure:
    """The mean and the largest error of every pixel's trajectory, each with its colour scale in metres."""
    height, width = found.error.shape[1:]
    figure = Figure(figsize=(9.6, 1.2 + 4.0 * height / width), layout="constrained")
    maps = {"mean over frames": found.mean_error, "worst frame": found.max_error}
    for axes, (title, error) in zip(figure.subplots(1, 2), maps.items(), strict=True):
        known = error[np.isfinite(error)]
        end = float(np.quantile(known, _SCALE_QUANTILE)) if known.size else 0.0
        axes.set_facecolor("#808080")
        image = axes.imshow(error, cmap="magma", vmin=0, vmax=max(end, 1e-9), interpolation="nearest")
        axes.set(title=f"{title} (grey: unknown)", xticks=[], yticks=[])
        figure.colorbar(image, ax=axes, label="error in metres", extend="max", shrink=0.9)
    return figure
