"""A stand-in with the interface of DELTA's dense predictor."""

from typing import Any

import torch
from torch import Tensor


class DensePredictor3D(torch.nn.Module):
    """The network's answer, flattened over the grid."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.interp_shape, self.model, self.n_iters = model.model_resolution, model, 1

    @torch.inference_mode()
    def forward(self, video: Tensor, videodepth: Tensor, grid_query_frame: int = 0) -> dict[str, Any]:
        assert tuple(video.shape[-2:]) == tuple(self.interp_shape) == tuple(videodepth.shape[-2:])
        assert grid_query_frame == 0 and video.dtype == torch.float32 and videodepth.shape[2] == 1
        _, made, _ = self.model(video=video, videodepth=videodepth, iters=self.n_iters, use_efficient_global_attn=True)
        return {
            "trajs_uv": made["coords"].flatten(3).transpose(2, 3),
            "trajs_depth": made["coord_depths"].flatten(3).transpose(2, 3),
            "vis": made["vis"].flatten(2) > 0.8,
            "conf": made["conf"].flatten(2),
            "dense_reso": self.interp_shape,
        }
