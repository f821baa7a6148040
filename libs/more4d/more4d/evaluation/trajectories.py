"""Trajectory error (paper eq. 7) against exact truth: see `more4d.geometry.errors`, which training measures by too."""

from more4d.geometry.errors import (
    MOVING_SHARE,
    REGIONS,
    Mask,
    Points,
    Truth,
    error_sum,
    method_sums,
    nothing_moves,
    ratio_to_static,
    static_sums,
    trajectory_error,
)

__all__ = [
    "MOVING_SHARE",
    "REGIONS",
    "Mask",
    "Points",
    "Truth",
    "error_sum",
    "method_sums",
    "nothing_moves",
    "ratio_to_static",
    "static_sums",
    "trajectory_error",
]
