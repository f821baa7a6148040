"""Ops of MoGe4D: motion-aware modulation, depth-guided motion normalisation, Gaussian splatting without a GPU.

Importing this needs torch alone; triton, numba and gsplat are imported by the first call that runs on them.
"""

from more4d_kernels.depth_norm import MotionStatistics, denormalize_motion, normalize_motion
from more4d_kernels.madanorm import madanorm, modulated_norm
from more4d_kernels.rasterization import rasterization

__all__ = ["MotionStatistics", "denormalize_motion", "madanorm", "modulated_norm", "normalize_motion", "rasterization"]
