"""Samples of TrajScene as the motion VAE's training reads them, and conditions that came with a batch.

Suffixes: B batch, T frames, H height, W width.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from more4d.data.sample import Sample
from more4d.geometry.motion import MotionScale, metres_per_unit, scaled_motion
from more4d.training.flow import Conditions
from more4d.training.view_source import video_tensor

DECODED = ("motion", "visible", "unit")
"""What a decoded trajectory's error is measured on."""


def motion_batch(samples: Iterable[Sample], camera: MotionScale = "sample") -> dict[str, Tensor]:
    """What MotionVAEObjective reads: motion, visible, unit and video of samples; unknown or invalid points are not visible.

    `camera` says what scales the motion: the VAE's `config.motion_camera`.
    """
    rows = [{**true_motion(sample, camera), "video": video_tensor(sample.video[None])[0]} for sample in samples]
    if not rows:
        raise ValueError("there are no samples to train on; verdicts.parquet says why they were rejected")
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def true_motion(sample: Sample, camera: MotionScale) -> dict[str, Tensor]:
    """A sample's motion [3, T, H, W] (eq. 1 units), visible bool [T, H, W] and unit [3, H, W] metres; nothing is infinite."""
    intrinsics = torch.from_numpy(sample.intrinsics)[None]
    motion, valid = scaled_motion(torch.from_numpy(sample.points)[None], intrinsics, camera)
    known = torch.isfinite(motion[0]).all(dim=0) & valid & torch.from_numpy(sample.visibility)
    unit = torch.from_numpy(metres_per_unit(sample.depth, sample.intrinsics, camera))
    return {
        "motion": torch.nan_to_num(motion[0], posinf=0.0, neginf=0.0),
        "visible": known,
        "unit": torch.nan_to_num(unit, posinf=0.0, neginf=0.0),
    }


def cached_conditions(batch: dict[str, Tensor]) -> Conditions:
    """Text and image tokens that came with the batch."""
    return Conditions(batch["text"], batch["image_tokens"])
