"""The motion VAE alone: given trajectories encoded, decoded and compared with what they were (paper section 4.2, eq. 7).

Shape letters: T frames, H height, W width, C latent channels, K latent frames, h = H/8, w = W/8.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from more4d.geometry.motion import MotionScale, scaled_motion, unscaled_points
from more4d.inference.checkpoints import BASE
from more4d.models.bundle import CONFIG, load_exactly, read_architecture
from more4d.models.vae import LATENT_STRIDE, MotionVAE

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What the motion VAE kept of trajectories.

    points float32 [T,H,W,3] in metres, as decoded; error float32 [T,H,W], their distance in metres to the true ones, NaN
    where those are unknown; motion_map uint8 [T,H,W,3], the colours between the encoder and Wan's VAE, to look at;
    latent float32 [C,K,h,w].
    """

    points: Floats
    error: Floats
    motion_map: NDArray[np.uint8]
    latent: Floats

    @property
    def mean_error(self) -> Floats:
        """[H,W] metres, over the frames in which the point is known; NaN where it never is."""
        known = np.isfinite(self.error)
        total, count = np.where(known, self.error, 0).sum(0), known.sum(0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)

    @property
    def max_error(self) -> Floats:
        """[H,W] metres, in the worst frame; NaN where the point is never known."""
        worst = np.where(np.isfinite(self.error), self.error, -np.inf).max(0)
        return np.where(np.isfinite(worst), worst, np.nan).astype(np.float32)

    def measures(self, truth: Floats, visibility: Mask) -> dict[str, float]:
        """Eq. 7's mean error in metres beside that of "nothing moves", over the visible and known of `truth` [T,H,W,3].

        Raises ValueError where there is nothing to count.
        """
        counted = visibility & np.isfinite(self.error)
        if not counted.any():
            raise ValueError(f"none of {counted.size} positions is visible and known: there is no error to measure")
        static = np.linalg.norm(truth - truth[0], axis=-1)[counted]
        error = self.error[counted].astype(np.float64)
        return {
            "trajectory_error_m": float(error.mean()),
            "trajectory_error_p95_m": float(np.quantile(error, 0.95)),
            "trajectory_error_max_m": float(error.max()),
            "nothing_moves_error_m": float(static.astype(np.float64).mean()),
            "positions": float(counted.sum()),
            "counted_share": float(counted.mean()),
        }


def load_motion_vae(folder: Path, *, device: str = "cpu") -> MotionVAE:
    """The motion VAE of a checkpoint folder, or the one that the lineage trained in its `models` folder; nothing else.

    Raises ValueError naming the file, key or shape that does not fit.
    """
    weights, base = folder / "vae.safetensors", folder
    if not (folder / CONFIG).is_file() and (folder / "motion_vae").is_dir():
        weights, base = folder / "motion_vae" / "vae.safetensors", folder / BASE
    vae = MotionVAE(read_architecture(base).motion_vae)
    try:
        load_exactly(vae, weights, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def reconstruct_trajectories(
    vae: MotionVAE, points: Floats, intrinsics: Floats, *, camera: MotionScale | None = None
) -> Reconstruction:
    """What comes back of `points` [T,H,W,3] in metres, in the first camera's frame, through the motion VAE.

    `intrinsics` [3,3] are in pixels of the H x W image; `camera` says whose constants scale the motion, by
    default those that the checkpoint names. Unknown positions
    (not finite) count as motionless. Raises ValueError where the size is not one that the VAE folds exactly.
    """
    require_folds(points)
    like = next(vae.trajectory_encoder.parameters())
    given = torch.from_numpy(np.ascontiguousarray(points, np.float32))
    camera = camera or vae.config.motion_camera
    own = torch.from_numpy(intrinsics).float()[None]
    motion, valid = scaled_motion(given[None], own, camera)
    known = torch.isfinite(given).all(-1) & valid[0]
    motion = torch.where(known, motion, 0).to(like)
    motion_map = vae.trajectory_encoder(motion)
    latent = vae.encode_motion_map(motion_map)
    decoded = unscaled_points(vae.decode_motion(latent).float().cpu(), given[:1], own, camera)[0]
    error = torch.where(known, (decoded - given).norm(dim=-1), torch.nan)
    return Reconstruction(decoded.numpy(), error.numpy(), _colours(motion_map[0]), latent[0].float().cpu().numpy())


def require_folds(points: Floats) -> None:
    """Raises ValueError unless `points` are [T,H,W,3] with T = 4n + 1 and sides in multiples of 8."""
    if points.ndim != 4 or points.shape[-1] != 3:
        raise ValueError(f"points must be [T,H,W,3], not {list(points.shape)}")
    frames, height, width = points.shape[:3]
    time, rows, columns = LATENT_STRIDE
    if frames % time != 1 or height % rows or width % columns:
        raise ValueError(
            f"{frames} frames of {height}x{width} do not fold into latents: give {time}n + 1 frames with sides in "
            f"multiples of {rows}"
        )


def _colours(motion_map: Tensor) -> NDArray[np.uint8]:
    """A motion map [3,T,H,W] in [-1, 1] as colours [T,H,W,3]."""
    shown = ((motion_map.float().clamp(-1, 1) + 1) * 127.5).round()
    return shown.permute(1, 2, 3, 0).cpu().numpy().astype(np.uint8)
