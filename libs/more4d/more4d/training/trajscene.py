"""TrajScene samples as batches for the motion VAE.

Shape letters: B batch, T frames, H height, W width.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from more4d.data.sample import Sample
from more4d.data.shards import TrajSceneDataset
from more4d.geometry.motion import MotionScale
from more4d.training.cache.fitting import Shape
from more4d.training.cache.samples import SampleList, bucket_numbers
from more4d.training.latents import motion_batch, true_motion


class TrajSceneMotion:
    """Samples as batches for MotionVAEObjective, decoded as they are asked for; no more than a batch is in memory.

    `camera` says what scales the motion: the VAE's `config.motion_camera`. Of samples over `largest` (T, H, W) the middle
    is taken.
    """

    def __init__(
        self,
        samples: TrajSceneDataset | Sequence[Sample],
        camera: MotionScale = "sample",
        *,
        largest: Shape | None = None,
    ) -> None:
        self._samples = SampleList(samples, largest)
        self._camera: MotionScale = camera
        self.ids: Sequence[str] = self._samples.ids
        self.buckets: Sequence[int] = bucket_numbers(self._samples.shapes)
        self.size = len(self._samples)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The samples at `indices` [B], all of one bucket: motion, visible, unit and video, as `motion_batch` has them."""
        numbers = indices.tolist()
        if len(shapes := {self._samples.shapes[i] for i in numbers}) > 1:
            raise ValueError(f"samples of {sorted(shapes)} cannot be one batch; take batches from one bucket")
        return motion_batch((self._samples[i] for i in numbers), self._camera)

    def held_out(self, limit: int) -> dict[str, Tensor]:
        """motion, visible and unit of the first `limit` samples of the most frequent size, to be held in memory.

        Raises ValueError when there are no samples.
        """
        if not self.size:
            raise ValueError("val: there are no samples to measure on; verdicts.parquet says why they were rejected")
        ((frequent, _),) = Counter(self.buckets).most_common(1)
        numbers = [i for i, bucket in enumerate(self.buckets) if bucket == frequent][:limit]
        rows = [true_motion(self._samples[i], self._camera) for i in numbers]
        return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
