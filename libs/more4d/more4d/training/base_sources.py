"""Batches for the tiny base, straight from rendered scenes, each scene also as its mirror image.

Suffixes: B batch, T frames, K latent frames, H height, W width.
"""

import re

import numpy as np
import torch
from torch import Tensor

from more4d.geometry.motion import metres_per_unit
from more4d.models.conditions import DepthEncoding, depth_latent, image_latent, to_unit_range
from more4d.models.text import TextEncoder
from more4d.models.vae import MotionVAE
from more4d.training.base_scenes import BaseScenes

_MIRRORED = {"left": "right", "right": "left"}


def mirror_caption(caption: str) -> str:
    """The caption of the mirrored scene: left and right change places."""
    return re.sub(r"\b(left|right)\b", lambda match: _MIRRORED[match[0]], caption)


class MotionScenes:
    """Rendered scenes as training batches; indices from N to 2N-1 are the mirror images of 0 to N-1.

    A batch: motion [B, 3, T, H, W] (eq. 1 units), visible bool [B, T, H, W], unit [B, 3, H, W] metres of one unit of
    motion, video [B, 3, T, H, W] in [-1, 1], image uint8 [B, 3, H, W], depth [B, H, W] metres.
    """

    def __init__(self, scenes: BaseScenes) -> None:
        self.scenes = scenes
        self.size = 2 * len(scenes)

    def captions(self, indices: Tensor) -> list[str]:
        """The caption of each sample."""
        count = len(self.scenes)
        texts = [(self.scenes.captions[int(i) % count], int(i) >= count) for i in indices]
        return [mirror_caption(text) if mirrored else text for text, mirrored in texts]

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The samples at `indices` [B]."""
        rows = [self._sample(int(i)) for i in indices]
        batch = {key: torch.from_numpy(np.stack([row[key] for row in rows])) for key in rows[0]}
        batch["motion"] = batch["motion"].float()
        batch["video"] = to_unit_range(batch["video"].permute(0, 4, 1, 2, 3))
        batch["image"] = batch["image"].permute(0, 3, 1, 2)
        return batch

    def _sample(self, index: int) -> dict[str, np.ndarray]:
        scenes, i = self.scenes, index % len(self.scenes)
        intrinsics = scenes.intrinsics[i]
        sample = {
            "motion": scenes.motion[i],
            "visible": scenes.visibility(i),
            "unit": metres_per_unit(scenes.depths[i], intrinsics),
            "video": scenes.videos[i],
            "image": scenes.videos[i, 0],
            "depth": scenes.depths[i],
        }
        return mirror(sample) if index >= len(scenes) else sample


def mirror(sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sample seen in a mirror: columns reversed, sideways motion negated."""
    axis = {"video": 2, "image": 1}
    flipped = {key: np.flip(value, axis.get(key, -1)) for key, value in sample.items()}
    flipped["motion"] = flipped["motion"] * np.array([-1, 1, 1], np.float16).reshape(3, 1, 1, 1)
    return {key: np.ascontiguousarray(value) for key, value in flipped.items()}


class STraGScenes:
    """MotionScenes with latents, motion features and tokens, encoded as they are asked for (the encoder is linear)."""

    def __init__(
        self, scenes: MotionScenes, vae: MotionVAE, text: TextEncoder, features: Tensor, depth_encoding: DepthEncoding
    ) -> None:
        if vae.trajectory_encoder.is_trained:
            raise ValueError(
                "the base's STraG learns on latents of the untrained trajectory encoder; freeze it in base_vae"
            )
        self.scenes, self.vae, self.text, self.features = scenes, vae, text, features
        self.depth_encoding: DepthEncoding = depth_encoding
        self.size = scenes.size

    @torch.no_grad()
    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The samples at `indices` [B] as STraGObjective wants them, with ids and ids_mask [B, M] and image."""
        batch = self.scenes.batch(indices)
        frames = batch["motion"].shape[2]
        ids, mask = self.text.tokenize(self.scenes.captions(indices))
        return {
            # Without the encoder's network, which still adds nothing and costs more than the transformer.
            "motion_latent": self.vae.encode_motion_map(self.vae.trajectory_encoder.start(batch["motion"])),
            "image_latent": image_latent(self.vae, to_unit_range(batch["image"]), frames),
            "depth_latent": depth_latent(self.vae, batch["depth"], frames, self.depth_encoding),
            "motion_features": self.features[indices].float(),
            "ids": ids,
            "ids_mask": mask,
            **{key: batch[key] for key in ("image", "motion", "visible", "unit")},
        }
