"""Image augmentations that keep depth and intrinsics true: for networks that must also face photos.

Everything is drawn from the given generator. Suffixes: B batch, H height, W width. Images are float in 0..1.
"""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

BLOCK = 8
"""Side of JPEG's blocks."""


def flip_images(
    image_B3HW: Tensor, depth_BHW: Tensor, intrinsics: Tensor, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """The same scenes, half of them seen in a mirror: the principal point moves to W - cx."""
    flip = torch.rand(len(image_B3HW), generator=generator) < 0.5
    image = torch.where(flip[:, None, None, None], image_B3HW.flip(-1), image_B3HW)
    depth = torch.where(flip[:, None, None], depth_BHW.flip(-1), depth_BHW)
    intrinsics = intrinsics.clone()
    intrinsics[flip, 0, 2] = image.shape[-1] - intrinsics[flip, 0, 2]
    return image, depth, intrinsics


def crop_images(
    image_B3HW: Tensor, depth_BHW: Tensor, intrinsics: Tensor, smallest: float, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Random crops of at least `smallest` of each side, back at full size: a longer focal length, the same metres."""
    batch, _, height, width = image_B3HW.shape
    share = smallest + (1 - smallest) * torch.rand(batch, generator=generator)
    shift = (1 - share)[:, None] * (2 * torch.rand(batch, 2, generator=generator) - 1)
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = share
    theta[:, :, 2] = shift
    grid = functional.affine_grid(theta, [batch, 3, height, width], align_corners=False)
    image = functional.grid_sample(image_B3HW, grid, mode="bilinear", padding_mode="border", align_corners=False)
    depth = functional.grid_sample(
        depth_BHW[:, None], grid, mode="nearest", padding_mode="border", align_corners=False
    )[:, 0]
    size = torch.tensor([width, height])
    start = (1 - share[:, None] + shift) / 2 * size
    moved = intrinsics.clone()
    moved[:, :2, 2] -= start
    moved[:, :2] /= share[:, None, None]
    return image, depth, moved


def change_colours(image_B3HW: Tensor, generator: Generator) -> Tensor:
    """Random channel mixing, saturation, contrast, brightness and gamma, in 0..1."""
    batch = len(image_B3HW)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, 1, 1, 1, generator=generator)

    order = torch.rand(batch, 3, generator=generator).argsort(1)
    keep = torch.rand(batch, 1, generator=generator) < 0.5
    order = torch.where(keep, torch.arange(3), order)
    image = image_B3HW.gather(1, order[..., None, None].expand_as(image_B3HW))
    grey = image.mean(1, keepdim=True)
    image = grey + (image - grey) * draw(0.0, 1.5)
    mean = image.mean((1, 2, 3), keepdim=True)
    image = (image - mean) * draw(0.5, 1.5) + mean + draw(-0.2, 0.2)
    tint = 1 + 0.2 * (2 * torch.rand(batch, 3, 1, 1, generator=generator) - 1)
    return (image * tint).clamp(1e-4, 1) ** draw(-0.5, 0.5).exp()


def blur_images(image_B3HW: Tensor, strongest: float, generator: Generator) -> Tensor:
    """Gaussian blur of 0..`strongest` pixels standard deviation, another for each image."""
    batch, channels = image_B3HW.shape[:2]
    sigma = strongest * torch.rand(batch, 1, generator=generator) + 1e-3
    taps = torch.exp(-0.5 * (torch.arange(-2, 3) / sigma) ** 2)
    taps = (taps / taps.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
    flat = functional.pad(image_B3HW.flatten(0, 1)[None], (2, 2, 2, 2), mode="replicate")
    flat = functional.conv2d(flat, taps[..., None, :], groups=batch * channels)
    return functional.conv2d(flat, taps[..., None], groups=batch * channels)[0].unflatten(0, (batch, channels))


def compress_images(image_B3HW: Tensor, coarsest: float, generator: Generator) -> Tensor:
    """JPEG-like: the cosine transform of 8x8 blocks, quantised more coarsely the higher the frequency.

    `coarsest` is the largest step of the lowest frequency, in 0..1 of the image's range.
    """
    step = coarsest * torch.rand(len(image_B3HW), 1, 1, 1, 1, 1, generator=generator) + 1e-4
    dct = cosine_basis(BLOCK)
    frequency = torch.arange(BLOCK)
    steps = step * (1 + frequency[:, None] + frequency)
    blocks = image_B3HW.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).transpose(3, 4)
    quantised = (dct @ blocks @ dct.T / steps).round() * steps
    image = (dct.T @ quantised @ dct).transpose(3, 4).flatten(4).flatten(2, 3)
    return image.clamp(0, 1)


def cosine_basis(size: int) -> Tensor:
    """The orthonormal type-II cosine transform [size, size]."""
    k, n = torch.arange(size)[:, None], torch.arange(size)
    basis = torch.cos(math.pi * (2 * n + 1) * k / (2 * size)) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def add_noise(image_B3HW: Tensor, strongest: float, generator: Generator) -> Tensor:
    """Gaussian noise of 0..`strongest` standard deviation, another for each image."""
    sigma = strongest * torch.rand(len(image_B3HW), 1, 1, 1, generator=generator)
    return (image_B3HW + sigma * torch.randn(image_B3HW.shape, generator=generator)).clamp(0, 1)
