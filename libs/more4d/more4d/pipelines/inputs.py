"""What a pipeline may be given, as tensors: pictures, videos, masks, depths and prompts, checked.

Suffixes: B batch, T frames, H height, W width.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from more4d.geometry.cameras import move_intrinsics
from more4d.geometry.images import fit_image
from more4d.models.vae import LATENT_STRIDE

Picture: TypeAlias = Image.Image | NDArray[np.uint8] | Tensor
Array: TypeAlias = NDArray[np.generic] | Tensor
SIDE = 16
"""Height and width are multiples of this: 8 pixels a latent cell, two cells a token."""


def pictures(given: Picture | Sequence[Image.Image]) -> Tensor:
    """Pictures [B, 3, H, W] in 0..255 of a PIL image or several, uint8 arrays [H, W, 3] or [B, H, W, 3], or a tensor.

    A tensor is [3, H, W] or [B, 3, H, W], uint8, or floating in 0..1. Raises ValueError for anything else.
    """
    if isinstance(given, Tensor):
        return _colours(given, "image", "[3, H, W] or [B, 3, H, W]", 4)
    if isinstance(given, Image.Image):
        given = [given]
    array = given if isinstance(given, np.ndarray) else _stacked(given, "image")
    return _pixels(array, "image", "[H, W, 3] or [B, H, W, 3]", 4)


def videos(given: Array | Sequence[Image.Image]) -> Tensor:
    """Videos [B, 3, T, H, W] in 0..255 of uint8 arrays [T, H, W, 3] or [B, T, H, W, 3], frames as PIL images, or a tensor.

    A tensor is [3, T, H, W] or [B, 3, T, H, W], uint8, or floating in 0..1. Raises ValueError for anything else.
    """
    if isinstance(given, Tensor):
        return _colours(given, "video", "[3, T, H, W] or [B, 3, T, H, W]", 5)
    array = given if isinstance(given, np.ndarray) else _stacked(given, "video")
    return _pixels(array, "video", "[T, H, W, 3] or [B, T, H, W, 3]", 5)


def masks(given: Array, video: Tensor) -> Tensor:
    """Masks [B, T, H, W] bool, True where a video [B, 3, T, H, W] is known, of [T, H, W] or [B, T, H, W] of any type."""
    mask = torch.as_tensor(given) != 0
    mask = mask if mask.ndim == 4 else mask[None]
    wanted = (video.shape[0], *video.shape[2:])
    if mask.shape != wanted:
        raise ValueError(f"mask is {tuple(mask.shape)}; a video {tuple(video.shape)} needs {wanted}, True where known")
    return mask


def depths(given: Array, image: Tensor) -> Tensor:
    """Depths [B, H, W] float32 in metres of images [B, 3, H, W]. Raises ValueError where the sizes differ."""
    depth = torch.as_tensor(given).float()
    depth = depth if depth.ndim == 3 else depth[None]
    wanted = (image.shape[0], *image.shape[2:])
    if depth.shape != wanted:
        raise ValueError(f"depth is {tuple(depth.shape)}; images {tuple(image.shape)} need {wanted} in metres")
    return depth


def cameras(given: Array, image: Tensor) -> Tensor:
    """Intrinsics [B, 3, 3] float32 in pixels; one camera [3, 3] serves a whole batch."""
    intrinsics = torch.as_tensor(given).float()
    intrinsics = intrinsics if intrinsics.ndim == 3 else intrinsics.expand(image.shape[0], 3, 3)
    if intrinsics.shape != (image.shape[0], 3, 3):
        raise ValueError(f"intrinsics are {tuple(intrinsics.shape)}; {image.shape[0]} images need [B, 3, 3] in pixels")
    return intrinsics


def prompts(given: str | Sequence[str], batch: int) -> list[str]:
    """One prompt for each of `batch` pictures. Raises ValueError where they are neither one nor as many."""
    texts = [given] * batch if isinstance(given, str) else list(given)
    if len(texts) != batch:
        raise ValueError(f"{len(texts)} prompts were given for {batch} pictures; give one each, or one for all")
    return texts


def require_size(frames: int, height: int, width: int) -> None:
    """Raises ValueError for sizes that the latents and the tokens do not divide."""
    if frames < 1 or (frames - 1) % LATENT_STRIDE[0]:
        raise ValueError(f"num_frames={frames} must be 4n + 1, such as {max(frames - 1, 4) // 4 * 4 + 1}")
    if min(height, width) < SIDE or height % SIDE or width % SIDE:
        nearest = [max(SIDE, round(side / SIDE) * SIDE) for side in (height, width)]
        raise ValueError(
            f"height={height} and width={width} must be multiples of {SIDE}, such as {nearest[0]} and {nearest[1]}"
        )


def require_fit(name: str, found: Tensor, height: int, width: int) -> None:
    """Raises ValueError where a picture or video [..., H, W] is of another size than is to be generated."""
    if found.shape[-2:] != (height, width):
        raise ValueError(
            f"the {name} is {found.shape[-2]}x{found.shape[-1]} and {height}x{width} is to be generated: fit it with "
            "more4d.geometry.images.fit_image, and its intrinsics with move_intrinsics, or give height and width"
        )


def fit_pictures(
    rgb: Tensor, intrinsics: Array | None, depth: Array | None, height: int, width: int
) -> tuple[Tensor, Array | None]:
    """Images [B, 3, height, width] and their intrinsics in pixels: resized to cover and cropped about the centre.

    Images of that size stay as they are. Raises ValueError for others that come with a depth: it would have to be cut
    with them.
    """
    if rgb.shape[-2:] == (height, width):
        return rgb, intrinsics
    if depth is not None:
        require_fit("image", rgb, height, width)
    pixels = rgb.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    images, crops = zip(*(fit_image(picture, height, width) for picture in pixels), strict=True)
    if intrinsics is not None:
        intrinsics = move_intrinsics(cameras(intrinsics, rgb), crops[0])
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), intrinsics


def _stacked(given: object, name: str) -> NDArray[np.uint8]:
    """Pixels [N, H, W, 3] of a sequence of PIL images of one size."""
    images = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
    if not images or not all(isinstance(image, Image.Image) for image in images):
        kinds = sorted({type(image).__name__ for image in images})
        found = f"a {type(given).__name__}" + (f" of {', '.join(kinds)}" if kinds else "")
        found = f"an empty {type(given).__name__}" if isinstance(given, Sequence) and not given else found
        raise ValueError(f"{name} must be PIL images, a uint8 array or a tensor, not {found}")
    if len(sizes := sorted({image.size for image in images})) > 1:
        listed = ", ".join(f"{height}x{width}" for width, height in sizes)
        raise ValueError(f"{name}: PIL images given together must be of one size, not {listed}")
    return np.stack([np.asarray(image.convert("RGB")) for image in images])


def _pixels(array: NDArray[np.generic], name: str, shapes: str, dimensions: int) -> Tensor:
    """A copy of an array of colours, as a batch with the colours second."""
    if (
        array.ndim not in (dimensions - 1, dimensions)
        or array.shape[-1] != 3
        or array.dtype != np.uint8
        or not array.size
    ):
        raise ValueError(f"{name} must be uint8 {shapes}, not {array.dtype} {array.shape}")
    tensor = torch.from_numpy(np.array(array))
    # The batch before the colours: its stride tells the kernels how the pixels lie, and so how the last bit is rounded.
    return (tensor if tensor.ndim == dimensions else tensor[None]).movedim(-1, 1)


def _colours(given: Tensor, name: str, shapes: str, dimensions: int) -> Tensor:
    tensor = given if given.ndim == dimensions else given[None]
    fits = tensor.ndim == dimensions and tensor.shape[1] == 3 and tensor.numel() > 0
    if not fits or not (tensor.is_floating_point() or tensor.dtype == torch.uint8):
        dtype = str(given.dtype).removeprefix("torch.")
        raise ValueError(f"a tensor of {name} must be {shapes}, uint8 or floating, not {dtype} {tuple(given.shape)}")
    if not tensor.is_floating_point():
        return tensor
    if not bool(((tensor >= 0) & (tensor <= 1)).all()):
        raise ValueError(f"a floating {name} must be in 0..1, not {float(tensor.min()):.3g}..{float(tensor.max()):.3g}")
    return tensor.float() * 255
