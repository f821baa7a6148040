"""A photo's depth from a file, and where a scene's folder may be written: what `generate` asks of the file system."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

_MILLIMETRES = 1e-3


def load_depth(path: Path) -> NDArray[np.float32]:
    """Depth [rows, columns] in metres from a .npy of numbers, or a 16-bit PNG in millimetres.

    Raises ValueError naming the file and the reason. Nothing is unpickled.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.suffix == ".npy":
        depth = _load_npy(path)
    elif path.suffix == ".png":
        depth = _load_png(path)
    else:
        raise ValueError(f"{path}: depth is read from .npy (metres) and 16-bit .png (millimetres), not {path.suffix}")
    if depth.ndim != 2:
        raise ValueError(f"{path}: depth must be [rows, columns], not {list(depth.shape)}")
    return depth.astype(np.float32)


def fit_depth(
    depth: NDArray[np.float32],
    photo_size: tuple[int, ...],
    box: tuple[float, float, float, float],
    size: tuple[int, int],
) -> NDArray[np.float32]:
    """Depth [h,w] at the networks' `size` of the part `box` (left, top, right, bottom) of a photo, by nearest pixel.

    Raises ValueError where `depth` [rows, columns] has another aspect than the photo (rows, columns), or no valid value.
    """
    rows, columns = depth.shape
    if abs(rows * photo_size[1] - columns * photo_size[0]) > max(rows, columns) * 2:
        raise ValueError(
            f"the depth is {rows}x{columns} and the upright photo {photo_size[0]}x{photo_size[1]}: their shapes must agree"
        )
    left, top, right, bottom = box
    v = top + (np.arange(size[0]) + 0.5) / size[0] * (bottom - top)
    u = left + (np.arange(size[1]) + 0.5) / size[1] * (right - left)
    i = np.clip(v / photo_size[0] * rows, 0, rows - 1).astype(int)
    j = np.clip(u / photo_size[1] * columns, 0, columns - 1).astype(int)
    fitted = np.asarray(depth[i][:, j], np.float32)
    if not (np.isfinite(fitted) & (fitted > 0)).any():
        raise ValueError(f"none of {fitted.size} given depths is finite and positive metres")
    return np.where(np.isfinite(fitted) & (fitted > 0), fitted, 0)


def require_free(folder: Path, *, force: bool) -> None:
    """Raises ValueError where `folder` exists and may not be replaced; only a scene's folder is ever replaced."""
    if folder.exists() and not force:
        raise ValueError(f"{folder} exists; choose another --out or replace it with --force")
    if folder.exists() and not (folder.is_dir() and _replaceable(folder)):
        raise ValueError(f"{folder} is not a scene folder and will not be replaced; choose another --out")


def _replaceable(folder: Path) -> bool:
    return (folder / "scene.json").is_file() or not any(folder.iterdir())


def _load_npy(path: Path) -> NDArray[np.generic]:
    try:
        depth = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a readable .npy array ({error})") from error
    if not np.issubdtype(depth.dtype, np.number) or np.iscomplexobj(depth):
        raise ValueError(f"{path}: depth must be real numbers in metres, not {depth.dtype}")
    return depth


def _load_png(path: Path) -> NDArray[np.generic]:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16:
        kind = "no picture" if image is None else f"{image.dtype}"
        raise ValueError(f"{path}: a depth picture must have 16 bits (millimetres); this is {kind}")
    return image * _MILLIMETRES
