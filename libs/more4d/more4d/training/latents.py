"""The latent cache: everything that STraG's training reads, computed once from the dataset.

Suffixes: B batch, T frames, K latent frames, H height, W width, M text tokens, I image tokens, G motion patches, C width.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from more4d_kernels import normalize_motion
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from more4d.data.sample import Sample
from more4d.geometry.motion import metres_per_unit
from more4d.geometry.published import MotionCamera, motion_intrinsics
from more4d.models.bundle import Models
from more4d.models.conditions import clip_picture, depth_latent, image_latent, to_unit_range
from more4d.training.flow import Conditions
from more4d.training.view_source import video_tensor

DECODED = ("motion", "visible", "unit")
"""What the decoded error is measured on."""


def motion_batch(samples: Iterable[Sample], camera: MotionCamera = "sample") -> dict[str, Tensor]:
    """What MotionVAEObjective reads: motion, visible, unit and video of samples; unknown or invalid points are not visible.

    `camera` says whose intrinsics scale the motion: the VAE's `config.motion_camera`.
    """
    rows = [_motion(sample, camera) for sample in samples]
    if not rows:
        raise ValueError("there are no samples to train on; verdicts.parquet says why they were rejected")
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def _motion(sample: Sample, camera: MotionCamera) -> dict[str, Tensor]:
    size = sample.depth.shape
    intrinsics = motion_intrinsics(camera, torch.from_numpy(sample.intrinsics), size)
    motion, valid = normalize_motion(torch.from_numpy(sample.points)[None], intrinsics[None], image_size=size)
    known = torch.isfinite(motion[0]).all(dim=0) & valid & torch.from_numpy(sample.visibility)
    unit = torch.from_numpy(metres_per_unit(sample.depth, intrinsics.numpy()))
    return {
        "motion": torch.nan_to_num(motion[0], posinf=0.0, neginf=0.0),
        "visible": known,
        "unit": torch.nan_to_num(unit, posinf=0.0, neginf=0.0),
        "video": video_tensor(sample.video[None])[0],
    }


@torch.no_grad()
def encode_samples(models: Models, samples: list[Sample]) -> dict[str, Tensor]:
    """One batch of the cache: latents, text, image tokens and motion features beside the true motion."""
    batch = motion_batch(samples, models.vae.config.motion_camera)
    images = torch.from_numpy(np.stack([sample.video[0] for sample in samples])).permute(0, 3, 1, 2)
    depth = torch.from_numpy(np.stack([sample.depth for sample in samples]))
    frames = batch["motion"].shape[2]
    return {
        "motion_latent": models.vae.encode_motion(batch["motion"]),
        "image_latent": image_latent(models.vae, to_unit_range(images), frames),
        "depth_latent": depth_latent(models.vae, depth, frames, models.config.generation.depth_encoding),
        "motion_features": models.motion_encoder.encode(images),
        "text": models.text.encode([sample.caption for sample in samples]),
        "image_tokens": models.image_encoder.encode(clip_picture(images, models.config.generation.clip_image)),
        **{key: batch[key] for key in DECODED},
    }


def write_latents(batches: Iterable[dict[str, Tensor]], file: Path) -> int:
    """Number of samples written; floating tensors are stored in half precision. Raises ValueError when there are none."""
    parts = list(batches)
    if not parts:
        raise ValueError(f"{file.stem}: there are no samples to encode")
    joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    save_file({key: _halved(value) for key, value in joined.items()}, file)
    return len(joined["motion_latent"])


def _halved(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    # Beyond half precision's range is infinity, and infinity times an invisible point's weight of 0 is no number.
    largest = torch.finfo(torch.float16).max
    return value.clamp(-largest, largest).half().contiguous()


class LatentDataset:
    """A file of the latent cache as batches for STraGObjective; only the samples asked for are read from the disk.

    Without `decoded` the true motion is left out: the decoded error alone needs it, and it is most of the bytes.
    """

    def __init__(self, file: Path, *, decoded: bool = True) -> None:
        self._file = safe_open(file, framework="pt")
        names = [name for name in self._file.keys() if decoded or name not in DECODED]  # noqa: SIM118 - no dict
        self._slices = {name: self._file.get_slice(name) for name in names}
        self.size: int = self._slices["motion_latent"].get_shape()[0]

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The samples at `indices` [B], in single precision."""
        rows = indices.tolist()
        picked = {name: torch.cat([part[i : i + 1] for i in rows]) for name, part in self._slices.items()}
        return {k: v.float() if v.is_floating_point() else v for k, v in picked.items()}


def cached_conditions(batch: dict[str, Tensor]) -> Conditions:
    """Text and image tokens that came with the batch."""
    return Conditions(batch["text"], batch["image_tokens"])
