"""What the networks make of clips whose truth is known, many at a time.

Shape letters: B batch, T frames, H height, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from more4d.inference.trajectories import generate_trajectories_batch
from more4d.models.bundle import Models

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sampling:
    """How trajectories and views are sampled: Euler steps, guidance scale, and the seed of the noise."""

    steps: int
    guidance: float
    seed: int = 0

    @classmethod
    def of(cls, models: Models, seed: int = 0) -> "Sampling":
        """The checkpoint's own."""
        generation = models.config.generation
        return cls(generation.steps, generation.guidance, seed)


def predict_points(
    models: Models,
    pictures: Sequence[NDArray[np.uint8]],
    captions: Sequence[str],
    depths: Sequence[Floats],
    intrinsics: Sequence[Floats],
    sampling: Sampling,
) -> Floats:
    """Points [B,T,H,W,3] in metres of pictures [H,W,3], each with its depth [H,W] and intrinsics [3,3].

    A pixel without depth is predicted at the picture's median depth: the networks know no holes.
    """
    points = generate_trajectories_batch(
        models,
        from_numpy(np.stack(pictures)),
        list(captions),
        from_numpy(np.stack([without_holes(depth) for depth in depths])),
        from_numpy(np.stack(intrinsics)),
        steps=sampling.steps,
        guidance=sampling.guidance,
        seed=sampling.seed,
    )
    return points.float().cpu().numpy()


@torch.no_grad()
def predict_depths(models: Models, pictures: Sequence[NDArray[np.uint8]], intrinsics: Sequence[Floats]) -> Floats:
    """First-frame depth [B,H,W] in metres by the depth network, which is told the intrinsics."""
    rgb = from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return models.depth.infer(rgb, from_numpy(np.stack(intrinsics))).depth.float().cpu().numpy()


@torch.no_grad()
def through_vae(models: Models, points: Sequence[Floats], intrinsics: Sequence[Floats]) -> Floats:
    """True points [B,T,H,W,3] after the motion VAE's encoder and decoder: what a perfect generator would reach."""
    truth = from_numpy(np.nan_to_num(np.stack(points)))
    cameras = from_numpy(np.stack(intrinsics))
    motion, _ = models.vae.motion_of(truth, cameras)
    decoded: Tensor = models.vae.decode_motion(models.vae.encode_motion(motion))
    return models.vae.points_of(decoded, truth[:, 0], cameras).float().numpy()


def without_holes(depth: Floats) -> Floats:
    """`depth` with its median where it is not finite and positive. Raises ValueError where it is nowhere."""
    valid = np.isfinite(depth) & (depth > 0)
    if not valid.any():
        raise ValueError(f"none of {depth.size} depths is finite and positive")
    return np.where(valid, depth, np.median(depth[valid])).astype(np.float32)
