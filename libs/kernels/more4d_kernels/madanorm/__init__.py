"""MAdaNorm: LayerNorm modulated by the timestep, then by motion features that all frames share."""

from more4d_kernels.madanorm.op import madanorm

__all__ = ["madanorm"]
