"""Motion in units of the viewing frustum at the initial depth (the paper's eq. 1), and back."""

from more4d_kernels.depth_norm.op import denormalize_motion, normalize_motion
from more4d_kernels.depth_norm.statistics import MotionStatistics, bin_edges

__all__ = ["MotionStatistics", "bin_edges", "denormalize_motion", "normalize_motion"]
