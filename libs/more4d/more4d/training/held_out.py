"""Held-out batches together with the truth that they are measured against, which training itself never reads.

A latent cache need not hold it: the few samples of a validation are read from the dataset.

Suffixes: B batch, T frames, H height, W width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from more4d.data.sample import Sample
from more4d.data.shards import TrajSceneDataset
from more4d.geometry.motion import MotionScale
from more4d.training.cache.encoders import views_of
from more4d.training.cache.samples import SampleList
from more4d.training.flow import BatchSource, Bucketed, Named
from more4d.training.latents import true_motion
from more4d.training.view_source import video_tensor

Samples = TrajSceneDataset | Sequence[Sample]


class HeldOut(ABC):
    """Batches of `source` for which the samples of the same names are found in `samples`.

    Raises ValueError where `source` has no names, or one that none of the samples has.
    """

    def __init__(self, source: BatchSource, samples: Samples) -> None:
        if not isinstance(source, Named):
            raise ValueError(f"{type(source).__name__} does not name its samples, so that their truth cannot be found")
        self.source, self.size, self.ids = source, source.size, source.ids
        self.buckets: Sequence[int] = source.buckets if isinstance(source, Bucketed) else [0] * source.size
        self._samples = SampleList(samples)
        self._places = {name: place for place, name in enumerate(self._samples.ids)}
        if missing := [name for name in map(self.sample_id, range(self.size)) if name not in self._places]:
            raise ValueError(
                f"{len(missing)} of {self.size} held-out samples, {missing[0]} for one, are not in the dataset: run the "
                "stage latents"
            )

    def sample_id(self, number: int) -> str:
        """The name of the sample that a row is of."""
        return self.ids[number]

    def sample(self, number: int) -> Sample:
        """The sample that a row is of."""
        return self._samples[self._places[self.sample_id(number)]]

    @abstractmethod
    def truth(self, number: int) -> dict[str, Tensor]:
        """What is added to a row."""

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The source's rows at `indices` [B] with their truth."""
        truths = [self.truth(number) for number in indices.tolist()]
        return self.source.batch(indices) | {key: torch.stack([truth[key] for truth in truths]) for key in truths[0]}


class HeldOutMotions(HeldOut):
    """With motion [B, 3, T, H, W] in units of `scale` (the VAE's `config.motion_camera`), visible, unit and depth [B, H, W]."""

    def __init__(self, source: BatchSource, samples: Samples, scale: MotionScale) -> None:
        super().__init__(source, samples)
        self._scale: MotionScale = scale

    def truth(self, number: int) -> dict[str, Tensor]:
        """The labeled motion, and the first frame's depth in metres."""
        sample = self.sample(number)
        depth = torch.nan_to_num(torch.from_numpy(sample.depth), posinf=0.0, neginf=0.0)
        return true_motion(sample, self._scale) | {"depth": depth}


class HeldOutViews(HeldOut):
    """With video and render [B, 3, T, H, W] in [-1, 1] and holes [B, T, H, W]; rows are called <sample>/<view>."""

    def sample_id(self, number: int) -> str:
        """The name before the view's."""
        return self.ids[number].rpartition("/")[0]

    def truth(self, number: int) -> dict[str, Tensor]:
        """The true video, the render of the same camera, and where it has holes."""
        view = views_of(self.sample(number))[self.ids[number].rpartition("/")[2]]
        assert view.video is not None, "views to learn from have a truth"
        video, render = (video_tensor(frames[None])[0] for frames in (view.video, view.render))
        return {"video": video, "render": render, "holes": ~torch.from_numpy(view.render_mask)}
