"""A stand-in with the interface of DELTA's network: every point goes by the checkpoint's step, in grid pixels a frame."""

import torch
from torch import Tensor

Predictions = dict[str, Tensor]


class DenseTrack3D(torch.nn.Module):
    """Depths grow by a tenth of the first a frame; the left half is less surely visible from the third frame on."""

    def __init__(
        self,
        window_len: int = 8,
        stride: int = 4,
        add_space_attn: bool = True,
        num_virtual_tracks: int = 64,
        model_resolution: tuple[int, int] = (384, 512),
        only_learnup: bool = False,
        upsample_factor: int = 4,
    ) -> None:
        super().__init__()
        assert (window_len, stride, upsample_factor, num_virtual_tracks) == (16, 4, 8, 64)
        assert add_space_attn and not only_learnup
        self.model_resolution = model_resolution
        self.step = torch.nn.Parameter(torch.zeros(2))
        self.register_buffer("table", torch.zeros(3))

    def forward(
        self, video: Tensor, videodepth: Tensor, iters: int = 4, use_efficient_global_attn: bool = False
    ) -> tuple[None, Predictions, None]:
        assert iters == 6 and use_efficient_global_attn and 1 < video.max() <= 255
        _, frames, _, height, width = video.shape
        v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        t = torch.arange(frames)[:, None, None]
        coords = torch.stack([u + t * self.step[0], v + t * self.step[1]], 1)[None]
        depths = videodepth[:, :1] * (1 + 0.1 * t[:, None])
        sure = torch.where((u < width // 2) & (t > 1), 0.7, 0.9)[None]
        return None, {"coords": coords, "coord_depths": depths, "vis": sure, "conf": sure}, None
