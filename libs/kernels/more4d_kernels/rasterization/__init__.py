"""Gaussian splatting with gsplat's signature and conventions, with or without a GPU."""

from more4d_kernels.rasterization.op import rasterization

__all__ = ["rasterization"]
