"""A stand-in with MoGe-2's interface and no network behind it."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class MoGeModel(torch.nn.Module):
    """Depth from brightness; what is very blue is sky."""

    @classmethod
    def from_pretrained(cls, where: str, model_kwargs: dict[str, Any] | None = None, **hub: str) -> "MoGeModel":
        assert model_kwargs is None and not hub
        model = cls()
        if "metric" in Path(where).read_text():
            model.scale_head = torch.nn.Identity()
        return model

    def infer(
        self,
        image: Tensor,
        num_tokens: int | None = None,
        resolution_level: int = 9,
        force_projection: bool = True,
        apply_mask: bool = True,
        fov_x: float | None = None,
        use_fp16: bool = True,
    ) -> dict[str, Tensor]:
        assert image.ndim == 3 and image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1
        assert resolution_level == 3 and not use_fp16 and num_tokens is None and force_projection and apply_mask
        height, width = image.shape[-2:]
        focal = float(0.5 + image[1, 0, 0]) if fov_x is None else 0.5 / math.tan(math.radians(fov_x) / 2)
        depth = torch.where(image[2] > 0.9, torch.inf, (1 + image[0]) * focal)
        intrinsics = torch.tensor([[focal, 0, 0.5], [0, focal * width / height, 0.5], [0, 0, 1.0]])
        return {"depth": depth, "intrinsics": intrinsics, "mask": depth.isfinite()}
