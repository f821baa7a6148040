"""MAdaNorm: LayerNorm modulated by the timestep, then by motion features that all frames share."""

from more4d_kernels.madanorm.op import madanorm, modulated_norm

__all__ = ["madanorm", "modulated_norm"]
