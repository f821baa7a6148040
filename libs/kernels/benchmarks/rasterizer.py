"""The rasterizer on one Gaussian a pixel of a slightly tilted depth map, as large as a photo at 512x368, and a clip of it."""

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from measure import Case
from more4d_kernels import rasterization
from more4d_kernels.rasterization.reference import rasterization_reference
from torch import Tensor

WIDTH, HEIGHT, FOCAL = 512, 368, 400.0
SCALES_M = (1e-4, 4e-3, 2e-2)
FRAMES = 49
NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks")


def cases(device: torch.device) -> Iterator[Case]:
    """One frame at three sizes of splat, and a clip from a camera that moves; on CUDA what gsplat needs, where it is."""
    needed = "gsplat" if device.type == "cuda" else "numba"
    if importlib.util.find_spec(needed) is None:
        print(f"the rasterizer needs {needed}, which is not installed")
        return
    ours = "more4d, numba" if device.type == "cpu" else "more4d, gsplat"
    for scale in SCALES_M:
        frame = _renderer(_scene(scale, device), _cameras(1, device))
        yield Case(f"{WIDTH * HEIGHT:,} splats of {scale:g} m, one frame", _contenders(ours, frame), _check(device))
    scene, cameras = _scene(4e-3, device), _cameras(FRAMES, device)
    clip = _contenders(ours, _renderer(scene, cameras))
    each = [_renderer(scene, {name: t[c : c + 1] for name, t in cameras.items()}) for c in range(FRAMES)]
    clip[f"{ours}, a call a frame"] = lambda: [frame() for frame in each]
    yield Case(f"{WIDTH * HEIGHT:,} splats of 0.004 m, {FRAMES} frames", clip, _check(device))


def _scene(scale: float, device: torch.device) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    v, u = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    depth = 2 + u / WIDTH + 0.2 * torch.rand(HEIGHT, WIDTH, generator=generator)
    means = torch.stack(((u - WIDTH / 2) * depth / FOCAL, (v - HEIGHT / 2) * depth / FOCAL, depth), dim=-1).reshape(
        -1, 3
    )
    scene = {
        "means": means,
        "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(len(means), 1),
        "scales": torch.full_like(means, scale),
        "opacities": torch.ones(len(means)),
        "colors": torch.rand(len(means), 3, generator=generator),
    }
    return {name: tensor.to(device) for name, tensor in scene.items()}


def _cameras(count: int, device: torch.device) -> dict[str, Tensor]:
    """The first from where the depth was measured, each a centimetre to the right of the one before."""
    viewmats = torch.eye(4).repeat(count, 1, 1)
    viewmats[:, 0, 3] = -0.01 * torch.arange(count)
    K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    return {"viewmats": viewmats.to(device), "Ks": K.repeat(count, 1, 1).to(device)}


def _renderer(scene: dict[str, Tensor], cameras: dict[str, Tensor]) -> Callable[[], object]:
    arguments: dict[str, Any] = scene | cameras
    return lambda: rasterization(**arguments, width=WIDTH, height=HEIGHT)


def _contenders(ours: str, call: Callable[[], object]) -> dict[str, Callable[[], object]]:
    if ours != "more4d, numba":
        return {ours: call}

    def alone() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            call()
        finally:
            torch.set_num_threads(threads)

    return {ours: call, f"{ours}, 1 thread": alone}


def _check(device: torch.device) -> Callable[[], None]:
    """Whether a small cloud, seen from its edge, looks as the float64 definition says."""

    def check() -> None:
        generator = torch.Generator().manual_seed(0)
        width, height, count = 60, 40, 300
        gaussians = (
            torch.randn(count, 3, generator=generator) + torch.tensor((0.0, 0.0, 1.5)),
            torch.randn(count, 4, generator=generator),
            0.02 + 0.2 * torch.rand(count, 3, generator=generator) ** 3,
            torch.rand(count, generator=generator),
            torch.rand(count, 3, generator=generator),
        )
        K = torch.tensor([[50.0, 0, width / 2], [0, 50, height / 2], [0, 0, 1]])
        scene = dict(zip(NAMES, (*gaussians, torch.eye(4)[None], K[None]), strict=True))
        there: dict[str, Any] = {name: t.to(device) for name, t in scene.items()}
        exactly: dict[str, Any] = {name: t.double() for name, t in scene.items()}
        image = rasterization(**there, width=width, height=height, near_plane=0.2)[0]
        exact = rasterization_reference(**exactly, width=width, height=height, near_plane=0.2)[0]
        error = (image.cpu().double() - exact).abs()
        assert error.mean() <= 1e-3 and error.max() <= 2 / 255, f"mean {error.mean():.1e}, largest {error.max():.1e}"

    return check
