"""`normalize_motion` and `denormalize_motion` of a whole clip: 49 frames of 336 x 596, in float32 and on a GPU bfloat16.

Points or motion are 118 MB in float32; `fewest_bytes` counts every input read once and every output written once.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from measure import Case
from more4d_kernels import denormalize_motion, normalize_motion
from more4d_kernels.depth_norm.reference import denormalize_motion_reference, normalize_motion_reference
from more4d_kernels.depth_norm.statistics import measure
from torch import Tensor

FRAMES, HEIGHT, WIDTH = 49, 336, 596
SIZE = HEIGHT, WIDTH
# Of a value's size: float32 against float64's twin, and bfloat16 with its 8 bits.
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}

Call = Callable[..., Tensor]


def cases(device: torch.device) -> Iterator[Case]:
    """Forward, forward and backward, statistics, and back to points."""
    for dtype in (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,):
        points, K = _clip(device, dtype)
        yield _forward(points, K)
        yield _forward_backward(points, K)
        yield _statistics(points, K)
        motion = _ours(points, K)
        yield _back(motion, points, K)
        yield _back_backward(motion, points, K)


def _forward(points: Tensor, K: Tensor) -> Case:
    eager = torch.no_grad()(_twin)
    return Case(
        f"normalize_motion {_name(points)}",
        {
            "more4d": partial(_ours, points, K),
            "eager": partial(eager, points, K),
            "torch.compile": partial(torch.compile(eager), points, K),
        },
        partial(_check, _ours, _twin, points, K),
        fewest_bytes=2 * _bytes(points) + points[0, 0, ..., 0].numel(),
        goals={"eager": 2.0},
    )


def _forward_backward(points: Tensor, K: Tensor) -> Case:
    gradient = torch.randn_like(points).permute(0, 4, 1, 2, 3).contiguous()
    calls = {"more4d": _ours, "eager": _twin, "torch.compile": torch.compile(_twin)}
    return Case(
        f"normalize_motion and gradient of points {_name(points)}",
        {name: partial(_with_gradient, call, (points,), gradient, K) for name, call in calls.items()},
        partial(_check_gradient, _ours, _twin, points, K),
        # Points are read again, instead of keeping motion.
        fewest_bytes=5 * _bytes(points),
    )


def _statistics(points: Tensor, K: Tensor) -> Case:
    eager = torch.no_grad()(_twin_statistics)
    contenders: dict[str, Callable[[], object]] = {
        "more4d": partial(normalize_motion, points, K, image_size=SIZE, statistics=True),
        "eager": partial(eager, points, K),
        "torch.compile": partial(torch.compile(eager), points, K),
    }
    return Case(
        f"normalize_motion with statistics {_name(points)}",
        contenders,
        partial(_check_statistics, points, K),
        fewest_bytes=2 * _bytes(points) + points[0, 0, ..., 0].numel(),
    )


def _back(motion: Tensor, points: Tensor, K: Tensor) -> Case:
    first = points[:, 0].contiguous()
    eager = torch.no_grad()(_twin_back)
    return Case(
        f"denormalize_motion {_name(points)}",
        {
            "more4d": partial(_ours_back, motion, first, K),
            "eager": partial(eager, motion, first, K),
            "torch.compile": partial(torch.compile(eager), motion, first, K),
        },
        partial(_check, _ours_back, _twin_back, motion, first, K),
        fewest_bytes=2 * _bytes(points) + _bytes(first),
    )


def _back_backward(motion: Tensor, points: Tensor, K: Tensor) -> Case:
    first, gradient = points[:, 0].contiguous(), torch.randn_like(points)
    calls = {"more4d": _ours_back, "eager": _twin_back, "torch.compile": torch.compile(_twin_back)}
    return Case(
        f"denormalize_motion and gradient of motion {_name(points)}",
        {name: partial(_with_gradient, call, (motion,), gradient, first, K) for name, call in calls.items()},
        partial(_check_gradient, _ours_back, _twin_back, motion, first, K),
        fewest_bytes=4 * _bytes(points) + 2 * _bytes(first),
    )


def _clip(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Points that drift away from their first places at 1 to 5 m, and the camera."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(1, FRAMES, HEIGHT, WIDTH, 3, generator=generator).mul_(0.1)
    points[..., 2] += 1 + 4 * torch.rand(HEIGHT, WIDTH, generator=generator)
    K = torch.diag(torch.tensor((500.0, 510.0, 1.0))).unsqueeze(0)
    return points.to(device, dtype), K.to(device)


def _ours(points: Tensor, K: Tensor) -> Tensor:
    return normalize_motion(points, K, image_size=SIZE)[0]


def _twin(points: Tensor, K: Tensor) -> Tensor:
    return normalize_motion_reference(points, K, SIZE)[0].to(points.dtype)


def _twin_statistics(points: Tensor, K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    motion, valid = normalize_motion_reference(points, K, SIZE)
    found = measure(motion, valid)
    return motion.to(points.dtype), found.maximum, found.counts


def _ours_back(motion: Tensor, first: Tensor, K: Tensor) -> Tensor:
    return denormalize_motion(motion, first, K, image_size=SIZE)


def _twin_back(motion: Tensor, first: Tensor, K: Tensor) -> Tensor:
    return denormalize_motion_reference(motion, first, K, SIZE)


def _with_gradient(call: Call, inputs: tuple[Tensor, ...], gradient: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    return torch.autograd.grad(call(*leaves, *others), leaves, gradient)


def _check(ours: Call, twin: Call, *inputs: Tensor) -> None:
    _assert_near(ours(*inputs), twin(*(tensor.double() for tensor in inputs)), inputs[0].dtype)


def _check_gradient(ours: Call, twin: Call, *inputs: Tensor) -> None:
    sample = inputs[0][:, :4] if inputs[0].shape[-1] == 3 else inputs[0][:, :, :4]
    shape = ours(sample, *inputs[1:]).shape
    gradient = torch.randn(shape, device=sample.device).to(sample.dtype)
    (found,) = _with_gradient(ours, (sample,), gradient, *inputs[1:])
    exact = (tensor.double() for tensor in inputs[1:])
    (expected,) = _with_gradient(twin, (sample.double(),), gradient.double(), *exact)
    _assert_near(found, expected, sample.dtype)


def _check_statistics(points: Tensor, K: Tensor) -> None:
    _, valid, found = normalize_motion(points[:, :4], K, image_size=SIZE, statistics=True)
    motion, _ = normalize_motion_reference(points[:, :4], K, SIZE)
    expected = measure(motion, valid)
    torch.testing.assert_close(found.maximum, expected.maximum)
    # Rounded differently, a value may lie just across an edge.
    assert (found.counts - expected.counts).abs().sum() <= 1e-4 * expected.counts.sum()


def _assert_near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert error <= BOUNDS[dtype], f"off by {error:.1e} of the largest value"


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _name(points: Tensor) -> str:
    return f"{FRAMES}x{HEIGHT}x{WIDTH} {str(points.dtype).removeprefix('torch.')}"
