"""`rasterization`: checks, then gsplat on CUDA tensors and the compiled CPU rasterizer elsewhere."""

from typing import Any, Literal

import torch
from torch import Tensor

RenderMode = Literal["RGB", "RGB+ED"]
Backend = Literal["auto", "cpu", "gsplat"]


LARGEST = 2**16


def rasterization(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    backgrounds: Tensor | None = None,
    render_mode: RenderMode = "RGB",
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Colours [C, H, W, 3 or 4], alphas [C, H, W, 1] and info of 3D Gaussians seen by C cameras; gsplat's names and meaning.

    `means` [N, 3] and `scales` [N, 3] (standard deviations) in metres; `quats` [N, 4] as w, x, y, z of any
    length; `opacities` [N] in [0, 1]; `colors` [N, 3]; `viewmats` [C, 4, 4] world-to-camera (OpenCV axes);
    `Ks` [C, 3, 3] in pixels, centres at +0.5; Gaussians outside [near_plane, far_plane] are not drawn;
    `eps2d` is added to the 2D variances, in pixels squared; `backgrounds` [C, 3], black without. "RGB+ED"
    appends the expected depth, 0 where nothing is drawn. `info` holds means2d [C, N, 2], depths [C, N],
    conics [C, N, 3] and radii [C, N, 2] (0 = not drawn).

    Backend "auto" takes gsplat for CUDA tensors and "cpu" for others. "cpu" runs on as many threads as torch
    (`torch.set_num_threads`) with the same bytes for any number of them, draws no Gaussian of which any number is not
    finite, none whose 2D covariance is singular or passes float32, and has no backward
    (`reference.rasterization_reference` has). Its first call in a process reads the compiled kernels from numba's
    cache (under a second), or compiles them (about seven). Raises ValueError naming what does not fit.
    """
    tensors = {
        "means": means, "quats": quats, "scales": scales, "opacities": opacities, "colors": colors,
        "viewmats": viewmats, "Ks": Ks,
    } | ({} if backgrounds is None else {"backgrounds": backgrounds})  # fmt: skip
    _check_shapes(tensors)
    _check_settings(width, height, near_plane, far_plane, eps2d, render_mode)
    settings: dict[str, Any] = {
        "near_plane": near_plane, "far_plane": far_plane, "eps2d": eps2d, "backgrounds": backgrounds,
        "render_mode": render_mode,
    }  # fmt: skip
    if _choose(backend, means.device) == "gsplat":
        from gsplat import rasterization as on_gpu

        return on_gpu(means, quats, scales, opacities, colors, viewmats, Ks, width, height, packed=False, **settings)
    if torch.is_grad_enabled() and (wanting := [name for name, tensor in tensors.items() if tensor.requires_grad]):
        raise ValueError(
            f"the CPU rasterizer has no backward, but {', '.join(wanting)} require a gradient: "
            "detach them, or call more4d_kernels.rasterization.reference.rasterization_reference"
        )
    # numba is imported, and the kernels compiled or read from their cache, only by who renders on a CPU.
    from more4d_kernels.rasterization.cpu import rasterize

    return rasterize(means, quats, scales, opacities, colors, viewmats, Ks, width, height, **settings)


def _choose(backend: str, device: torch.device) -> str:
    if backend not in ("auto", "cpu", "gsplat"):
        raise ValueError(f"unknown backend {backend!r}; the backends are 'auto', 'cpu' and 'gsplat'")
    if backend == "auto":
        return "gsplat" if device.type == "cuda" else "cpu"
    if backend == "gsplat" and (device.type != "cuda" or not torch.cuda.is_available()):
        raise ValueError(
            f"backend 'gsplat' needs CUDA tensors and a CUDA device, but the Gaussians are on {device}: "
            "move every tensor to the GPU, or use backend 'cpu' or 'auto'"
        )
    return backend


def _check_shapes(tensors: dict[str, Tensor]) -> None:
    count, cameras = (tensors[name].shape[0] if tensors[name].ndim else 0 for name in ("means", "viewmats"))
    wanted = {
        "means": (count, 3), "quats": (count, 4), "scales": (count, 3), "opacities": (count,), "colors": (count, 3),
        "viewmats": (cameras, 4, 4), "Ks": (cameras, 3, 3), "backgrounds": (cameras, 3),
    }  # fmt: skip
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name] or not tensor.is_floating_point():
            raise ValueError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)}; "
                f"{count} Gaussians and {cameras} cameras need floating {wanted[name]}"
            )
        if tensor.device != tensors["means"].device:
            raise ValueError(
                f"{name} is on {tensor.device}, but means are on {tensors['means'].device}: move one of them"
            )


def _check_settings(
    width: int, height: int, near_plane: float, far_plane: float, eps2d: float, render_mode: str
) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"an image of {width}x{height} has no pixel; width and height must be at least 1")
    if max(width, height) > LARGEST:
        raise ValueError(f"an image of {width}x{height} is too large; render parts of at most {LARGEST} pixels a side")
    if not 0 < near_plane < far_plane:
        raise ValueError(f"near_plane={near_plane} and far_plane={far_plane} must satisfy 0 < near_plane < far_plane")
    if not eps2d >= 0:
        raise ValueError(f"eps2d={eps2d} must not be negative")
    if render_mode not in ("RGB", "RGB+ED"):
        raise ValueError(f"unknown render_mode {render_mode!r}; the modes are 'RGB' and 'RGB+ED'")
