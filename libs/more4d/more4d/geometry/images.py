"""Photos as the model sees them: 8-bit RGB under fixed rules, resized and cropped to the model's size."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from more4d.geometry.cameras import CoverCrop, resize_cover

MIN_SIDE = 16
MAX_PIXELS = 64_000_000

Pixels = NDArray[np.uint8]

# What Pillow's decoders raise on damaged files.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
)


def load_image(path: Path | str) -> Pixels:
    """The image as uint8 RGB [H, W, 3], upright.

    Grey, CMYK, palette and 16-bit images are converted, transparency is laid over white, EXIF rotation is
    applied, and of an animation the first frame is taken. Raises ValueError naming the file and the reason:
    not an image, a side below 16 pixels or more than 64 megapixels (both before decoding), damaged, or of a
    mode whose brightness has no defined range.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            # Pillow warns about sizes that are refused here anyway.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
        with image:
            _check_size(image.size)
            return _to_rgb(ImageOps.exif_transpose(image))
    except _RefusedError as error:
        raise ValueError(f"{path}: {error}") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path}: over {MAX_PIXELS / 1e6:.0f} megapixels; make it smaller") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not an image that Pillow can read") from None
    except _DECODING_ERRORS as error:
        raise ValueError(f"{path}: the image cannot be decoded ({error})") from error


def fit_image(image: Pixels, height: int, width: int) -> tuple[Pixels, CoverCrop]:
    """The image [H, W, 3] at the model's size [height, width, 3], and how it got there.

    Resized to cover and cropped about the centre; `move_intrinsics(intrinsics, crop)` moves a camera with it.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image must be uint8 [H, W, 3], not {image.dtype} {image.shape}")
    crop = resize_cover(image.shape[:2], (height, width))
    left, top, right, bottom = crop.box
    # Rounding may put the far edge a hair outside, which Pillow refuses. Only the box is resized: a strip of
    # 16 x 4,000,000 pixels never becomes 64 x 16,000,000.
    box = (left, top, min(right, image.shape[1]), min(bottom, image.shape[0]))
    fitted = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS, box=box)
    return np.asarray(fitted).copy(), crop


class _RefusedError(ValueError):
    """A readable image outside the rules."""


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if min(size) < MIN_SIDE:
        raise _RefusedError(f"{width}x{height} pixels; both sides must be at least {MIN_SIDE}")
    if width * height > MAX_PIXELS:
        raise _RefusedError(
            f"{width}x{height} is {width * height / 1e6:.0f} megapixels, over the limit of {MAX_PIXELS / 1e6:.0f}; "
            "make it smaller"
        )


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I"):
        grey = _grey_from_16_bit(np.asarray(image))
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise _RefusedError("floating-point grey has no defined range of brightness; save it as 8 or 16 bit")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    return np.asarray(image.convert("RGB")).copy()


def _grey_from_16_bit(values: NDArray[np.generic]) -> Pixels:
    """8 bits from 16; Pillow itself would clip everything above 255 to white."""
    wide = values.astype(np.int64)
    low, high = int(wide.min()), int(wide.max())
    if low < 0 or high > 65535:
        raise _RefusedError(f"grey values from {low} to {high} do not fit 16 bits; save it as 8 or 16 bit")
    return ((wide + 128) // 257).astype(np.uint8)
