"""A stand-in with UniDepthV2's interface and no network behind it. The first pixel of a frame can ask for a fault."""

import importlib.util
import os
import time
from pathlib import Path

import torch
from torch import Tensor

assert importlib.util.find_spec("more4d") is None, "this environment is not the labeler's own"


class UniDepthV2(torch.nn.Module):
    """Depth from brightness; the camera from one pixel."""

    resolution_level = -1

    @classmethod
    def from_pretrained(cls, where: str, revision: str | None = None) -> "UniDepthV2":
        if "broken" in Path(where).read_text():
            raise OSError("these weights are no weights")
        return cls()

    def infer(self, rgb: Tensor, camera: Tensor | None = None, normalize: bool = True) -> dict[str, Tensor]:
        assert rgb.dtype == torch.uint8 and rgb.ndim == 4 and len(rgb) == 1
        assert self.resolution_level == 3 and normalize
        width, height, code = rgb.shape[-1], rgb.shape[-2], int(rgb[0, 0, 0, 0])
        _misbehave(code)
        guess = torch.eye(3)[None]
        guess[:, 0, 0] = guess[:, 1, 1] = width + float(rgb[0, 2, 0, 0])
        guess[:, 0, 2], guess[:, 1, 2] = width / 2, height / 2
        depth = (1 + rgb[:, :1].float() / 255) * (guess if camera is None else camera)[:, 0, 0] / width
        if code == 204:
            depth[..., 5, 5] = torch.nan
        if code == 205:
            depth = depth[..., :-1]
        if camera is not None:
            assert camera.shape == (1, 3, 3)
            camera[..., :2, :] *= 0.5  # as the published code does
        return {"depth": depth, "intrinsics": guess, "confidence": depth, "points": depth.repeat(1, 3, 1, 1)}


def _misbehave(code: int) -> None:
    if code == 201:
        raise RuntimeError("it cannot do this one")
    if code == 202:
        os.kill(os.getpid(), 9)
    if code == 203:
        time.sleep(600)
