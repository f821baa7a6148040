"""Masked-autoencoder pretraining of the motion encoder on short clips and single images, as OmniMAE does it.

Suffixes: B batch, T frames, H height, W width, L patches, S patches of one moment, V visible patches.
"""

import numpy as np
import torch
from torch import Generator, Tensor

from more4d.models.motion_encoder import (
    MaskedAutoencoder,
    MotionEncoder,
    MotionEncoderConfig,
    normalise_clip,
    patchify,
    take_patches,
)
from more4d.training.draws import Draws
from more4d.training.loop import iterate_batches
from more4d.training.objective import Objective

MASKED = 0.9
IMAGE_SHARE = 0.25
"""Of the batch, seen as images of one frame."""
PROBE_RIDGE = 1.0


class MotionEncoderObjective(Objective):
    """Mean squared error of the masked patches' normalised pixels; `videos` is uint8 [N,T,H,W,3], memory-mapped or not."""

    def __init__(self, videos: np.ndarray, config: MotionEncoderConfig, seed: int) -> None:
        if videos.shape[1] < config.frames:
            raise ValueError(f"clips have {videos.shape[1]} frames, fewer than the encoder's {config.frames}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = MaskedAutoencoder.from_config(config)
        self.module = self.network
        self.videos, self.config = videos, config
        self.size = len(videos)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Whole videos uint8 [B,3,T,H,W]; their frames are chosen in `loss`."""
        return {"video": _channels_first(self.videos[np.sort(indices.numpy())])}

    def loss(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """The clips' and the images' losses, weighted by their patches, as "loss"."""
        video, generator = batch["video"], draws.generator
        images = round(IMAGE_SHARE * len(video))
        clip = choose_frames(video[images:], self.config.frames, generator)
        parts = {"clips": masked_loss(self.network, clip, generator)}
        if images:
            parts["images"] = masked_loss(self.network, choose_frames(video[:images], 1, generator), generator)
        total = sum(parts.values(), start=torch.zeros(())) / len(parts)
        return {"loss": total} | {key: value.detach() for key, value in parts.items()}


def choose_frames(video_B3THW: Tensor, frames: int, generator: Generator) -> Tensor:
    """`frames` equally spaced frames [B,3,frames,H,W] of each video, mirrored half of the time; spacing and start are random."""
    batch, total = video_B3THW.shape[0], video_B3THW.shape[2]
    longest = (total - 1) // (frames - 1) if frames > 1 else 1
    spacing = torch.randint(1, longest + 1, (batch, 1), generator=generator)
    start = (torch.rand(batch, 1, generator=generator) * (total - spacing * (frames - 1))).long()
    index = start + spacing * torch.arange(frames)
    clip = video_B3THW.transpose(1, 2)[torch.arange(batch)[:, None], index].transpose(1, 2)
    flip = torch.rand(batch, 1, 1, 1, 1, generator=generator) < 0.5
    return torch.where(flip, clip.flip(-1), clip)


def tube_mask(batch: int, moments: int, positions: int, masked: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Visible and hidden patches, int64 [B,V] and [B,L-V]: the same random positions at every moment, at least one visible."""
    order = torch.rand(batch, positions, generator=generator).argsort(1)
    visible = max(1, round((1 - masked) * positions))

    def through_time(positions_BS: Tensor) -> Tensor:
        tubes = positions_BS[:, None] + positions * torch.arange(moments)[:, None]
        return tubes.flatten(1).sort(1).values

    return through_time(order[:, :visible]), through_time(order[:, visible:])


def masked_loss(network: MaskedAutoencoder, clip_B3THW: Tensor, generator: Generator) -> Tensor:
    """Mean squared error of the hidden patches of a clip in 0..255, each patch normalised to mean 0 and variance 1.

    Predicting nothing (0 everywhere) scores the variance's share of what is normalised: just below 1.
    """
    config = network.config
    clip = normalise_clip(clip_B3THW, config.image_size)
    target = patchify(clip, config)
    positions = config.grid[0] * config.grid[1]
    visible, hidden = tube_mask(len(clip), target.shape[1] // positions, positions, MASKED, generator)
    predicted = network(clip, visible)
    target = take_patches(target, hidden)
    deviation = (target.var(-1, keepdim=True) + 1e-6).sqrt()
    target = (target - target.mean(-1, keepdim=True)) / deviation
    return (take_patches(predicted, hidden) - target).square().mean()


@torch.no_grad()
def evaluate_reconstruction(network: MaskedAutoencoder, videos: np.ndarray, seed: int) -> dict[str, float]:
    """The masked loss over `videos` uint8 [N,T,H,W,3], of clips and of images, and the variance of what is predicted."""
    network.eval()
    generator = torch.Generator().manual_seed(seed)
    sums = {"clips": 0.0, "images": 0.0}
    for indices in iterate_batches(len(videos), 16):
        video = _channels_first(videos[indices.numpy()])
        for key, frames in (("clips", network.config.frames), ("images", 1)):
            clip = choose_frames(video, frames, generator)
            sums[key] += float(masked_loss(network, clip, generator)) * len(indices)
    return {key: value / len(videos) for key, value in sums.items()}


@torch.no_grad()
def probe_moving(encoder: MotionEncoder, images: np.ndarray, moving: np.ndarray) -> float:
    """How well a linear map of the patch features says which share of a patch belongs to a thing that moves: R² in ..1.

    Fitted by ridge regression on the first half of `images` uint8 [N,H,W,3] and `moving` bool [N,H,W], scored on the second.
    """
    encoder.eval()
    pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
    features = torch.cat([encoder.encode(chunk) for chunk in pixels.split(16)]).double()
    shares = torch.nn.functional.adaptive_avg_pool2d(
        torch.from_numpy(np.array(moving)).double()[:, None], encoder.config.grid
    ).flatten(1)
    half = len(images) // 2
    mean, deviation = features[:half].mean((0, 1)), features[:half].std((0, 1)) + 1e-6
    x = (features - mean) / deviation
    x = torch.cat((x, torch.ones_like(x[..., :1])), dim=-1)
    fit, test = x[:half].flatten(0, 1), x[half:].flatten(0, 1)
    ridge = PROBE_RIDGE * torch.eye(fit.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(fit.T @ fit + ridge, fit.T @ shares[:half].flatten())
    truth = shares[half:].flatten()
    residual = (test @ weights - truth).square().mean()
    return float(1 - residual / truth.var(unbiased=False))


def _channels_first(videos: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(videos)).permute(0, 4, 1, 2, 3)
