"""Training of the depth network on rendered scenes, and its error against the best constant plane.

Suffixes: B batch, H height, W width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from more4d.models.depth import DepthConfig, DepthNetwork, RawDepth, log_focal_of
from more4d.training import augment
from more4d.training.draws import Draws
from more4d.training.loop import iterate_batches
from more4d.training.objective import Objective

GRADIENT_WEIGHT = 0.5
SCALE_WEIGHT = 0.5
FOCAL_WEIGHT = 0.3
ERROR_WEIGHT = 0.1
SMALLEST_ERROR = 0.01
"""Of |log depth|: below it the confidence head is not asked to tell errors apart."""


@dataclass(frozen=True)
class DepthSamples:
    """First frames with their truth; any array-like that is indexed by scene, memory-mapped or not."""

    images: np.ndarray
    """uint8 [N,H,W,3]."""
    depths: np.ndarray
    """float32 [N,H,W] metres."""
    intrinsics: np.ndarray
    """float32 [N,3,3] pixels."""


class DepthObjective(Objective):
    """Relative log depth and its gradients, the scale, the field of view and the expected error."""

    def __init__(self, samples: DepthSamples, config: DepthConfig, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = DepthNetwork.from_config(config)
        self.module = self.network
        self.samples = samples
        self.size = len(samples.images)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """First frames [B,3,H,W] in 0..1, depths [B,H,W] and intrinsics [B,3,3]."""
        i = np.sort(indices.numpy())
        images = torch.from_numpy(np.array(self.samples.images[i])).permute(0, 3, 1, 2).float() / 255
        depths, intrinsics = (np.array(a[i]) for a in (self.samples.depths, self.samples.intrinsics))
        return {"image": images, "depth": torch.from_numpy(depths), "intrinsics": torch.from_numpy(intrinsics)}

    def loss(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """The weighted sum as "loss", and its parts."""
        generator = draws.generator
        image, depth, intrinsics = augment_batch(batch, generator)
        # Half of the batches go without the camera, as photos do.
        given = intrinsics if torch.rand((), generator=generator) < 0.5 else None
        raw = self.network(image, given)
        parts = depth_losses(raw, depth, intrinsics)
        total = (
            parts["relative"]
            + GRADIENT_WEIGHT * parts["gradient"]
            + SCALE_WEIGHT * parts["scale"]
            + FOCAL_WEIGHT * parts["focal"]
            + ERROR_WEIGHT * parts["confidence"]
        )
        return {"loss": total} | {key: value.detach() for key, value in parts.items()}


def augment_batch(batch: dict[str, Tensor], generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images, depths and intrinsics after flips, crops, colours, blur, compression and noise."""
    image, depth, intrinsics = augment.flip_images(batch["image"], batch["depth"], batch["intrinsics"], generator)
    image, depth, intrinsics = augment.crop_images(image, depth, intrinsics, 0.6, generator)
    image = augment.change_colours(image, generator)
    image = augment.blur_images(image, 1.0, generator)
    image = augment.compress_images(image, 0.04, generator)
    return augment.add_noise(image, 0.03, generator), depth, intrinsics


def depth_losses(raw: RawDepth, depth_BHW: Tensor, intrinsics: Tensor) -> dict[str, Tensor]:
    """Mean absolute errors of log depth: relative, its gradients, scale; of log focal length; and the error head's likelihood."""
    target = depth_BHW.log()
    median = target.flatten(1).median(1).values
    relative = target - median[:, None, None]
    error = (raw.relative - relative).abs()
    observed = (raw.log_depth.detach() - target).abs() + SMALLEST_ERROR
    return {
        "relative": error.mean(),
        "gradient": _gradient_error(raw.relative, relative),
        "scale": (raw.scale - median).abs().mean(),
        "focal": (raw.log_focal - log_focal_of(intrinsics, depth_BHW.shape[-2:])).abs().mean(),
        # Of a Laplace distribution, whose scale is the expected absolute error.
        "confidence": (observed * (-raw.log_error).exp() + raw.log_error).mean(),
    }


def _gradient_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean |difference of finite differences| at three scales: edges where they are, and no others."""
    error = (prediction - target)[:, None]
    total = error.new_zeros(())
    for _ in range(3):
        total = total + error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        error = functional.avg_pool2d(error, 2)
    return total / 3


@torch.no_grad()
def evaluate_depth(network: DepthNetwork, samples: DepthSamples, *, with_camera: bool) -> dict[str, float]:
    """Errors over all pixels of `samples`, beside those of each scene's best constant plane (its median depth).

    log_error is mean |log depth error|, abs_rel mean |depth error| / depth; ratio is the plane's log_error over the
    network's; focal_error is mean |log focal length error|; correlation is between expected and true log error.
    """
    network.eval()
    sums: dict[str, list[Tensor]] = {}
    for indices in iterate_batches(len(samples.images), 16):
        i = indices.numpy()
        images, depths, intrinsics = (
            torch.from_numpy(np.array(a[i])) for a in (samples.images, samples.depths, samples.intrinsics)
        )
        found = network.infer(images.permute(0, 3, 1, 2), intrinsics if with_camera else None)
        plane = depths.flatten(1).median(1).values[:, None, None].expand_as(depths)
        focal = log_focal_of(found.intrinsics, depths.shape[-2:]) - log_focal_of(intrinsics, depths.shape[-2:])
        rows = {
            "log_error": (found.depth / depths).log().abs(),
            "abs_rel": (found.depth / depths - 1).abs(),
            "plane_log_error": (plane / depths).log().abs(),
            "plane_abs_rel": (plane / depths - 1).abs(),
            "focal_error": focal.abs(),
            "expected_error": -found.confidence.clamp(1e-6).log(),
        }
        for key, value in rows.items():
            sums.setdefault(key, []).append(value.flatten())
    values = {key: torch.cat(value) for key, value in sums.items()}
    means = {key: float(value.mean()) for key, value in values.items()}
    together = torch.stack((values["expected_error"], values["log_error"]))
    return means | {
        "ratio": means["plane_log_error"] / means["log_error"],
        "correlation": float(torch.corrcoef(together)[0, 1]),
    }
