"""Generated and true motion of a held-out sample, side by side as its points are seen by a camera.

Shape letters: T frames, H height, W width.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from more4d.data.sample import Sample
from more4d.geometry.paths import CameraName, camera_path, scene_centre
from more4d.inference.render import render_path
from more4d.models.vae import MotionVAE

Video = NDArray[np.uint8]


class MotionVideo:
    """What TrajectoryValidation shows: splat renders along the path `camera`, generated on the left, true on the right.

    `sample` gives the sample of a number; `vae` says what the units of its motion are.
    """

    def __init__(self, sample: Callable[[int], Sample], vae: MotionVAE, camera: CameraName = "static") -> None:
        self._sample, self._vae, self._camera = sample, vae, camera

    def __call__(self, number: int, generated: Tensor, true: Tensor) -> Video:
        """The video uint8 [T, H, 2 W, 3] of two motions [3, T, H, W] of a sample."""
        sample = self._sample(number)
        return np.concatenate([self._render(sample, motion) for motion in (generated, true)], axis=2)

    def _render(self, sample: Sample, motion: Tensor) -> Video:
        intrinsics, points0 = torch.from_numpy(sample.intrinsics), torch.from_numpy(sample.points[0])
        points = self._vae.points_of(motion.float().cpu()[None], points0[None], intrinsics[None])[0].numpy()
        centre = scene_centre(torch.from_numpy(sample.depth))
        poses = camera_path(self._camera, len(points), centre=centre).float().numpy()
        return render_path(points, sample.video[0], sample.intrinsics, poses)[0]
