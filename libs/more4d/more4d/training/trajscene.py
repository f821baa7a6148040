"""TrajScene samples as batches for the motion VAE and for 4D-ViSM."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from more4d.data.sample import Sample
from more4d.geometry.published import MotionCamera
from more4d.models.bundle import Models
from more4d.training.latents import motion_batch
from more4d.training.view_source import ViewPair


class TrajSceneMotion:
    """Samples held in memory as batches for MotionVAEObjective."""

    def __init__(self, samples: Iterable[Sample], camera: MotionCamera = "sample") -> None:
        self.tensors = motion_batch(samples, camera)
        self.size = len(self.tensors["motion"])

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The samples at `indices` [B]."""
        return {key: value[indices] for key, value in self.tensors.items()}


@torch.no_grad()
def sample_view_pairs(samples: Iterable[Sample], models: Models) -> Iterator[ViewPair]:
    """Pairs of render and truth: the original camera of every sample, and novel cameras where the truth is known."""
    for sample in samples:
        text = models.text.encode([sample.caption])[0]
        image = models.image_encoder.encode(torch.from_numpy(sample.video[0]).permute(2, 0, 1)[None])[0]
        yield ViewPair(sample.video, sample.render, sample.render_mask, text, image)
        for view in sample.views.values():
            if view.video is not None:
                yield ViewPair(view.video, view.render, view.render_mask, text, image)
