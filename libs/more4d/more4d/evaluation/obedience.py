"""Whether the motion follows the caption: with the direction swapped, the predicted motion must turn.

Shape letters: T frames, H height, W width.
"""

import numpy as np
from numpy.typing import NDArray

AXES: dict[str, tuple[float, float, float]] = {
    "left": (-1, 0, 0),
    "right": (1, 0, 0),
    "towards": (0, 0, -1),
    "away": (0, 0, 1),
}
"""The first camera's axis that each direction in a caption means."""


def mean_motion_along(points: NDArray[np.float32], mask: NDArray[np.bool_], direction: str) -> float:
    """Mean displacement in metres of the pixels `mask` [H,W] over all frames of points [T,H,W,3], along a direction."""
    displacement = (points - points[0])[:, mask].astype(np.float64)
    return float((displacement @ np.array(AXES[direction])).mean())


def turned(
    original: NDArray[np.float32], swapped: NDArray[np.float32], mask: NDArray[np.bool_], direction: str
) -> bool:
    """True where the object goes `direction` when the caption says so, and the other way when it says the opposite."""
    return mean_motion_along(original, mask, direction) > 0 > mean_motion_along(swapped, mask, direction)
