import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from more4d_kernels import denormalize_motion, normalize_motion
from torch import Tensor

SIZE = (4, 6)


def trajectories(batch: int = 2, frames: int = 3, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(batch, frames, *SIZE, 3, generator=generator, dtype=torch.float64)
    points[..., 2] = points[..., 2].abs() + 1
    return points.to(dtype)


def cameras(batch: int = 2, *, dtype: torch.dtype = torch.float64) -> Tensor:
    K = torch.eye(3, dtype=dtype).repeat(batch, 1, 1)
    K[:, 0, 0] = 5 + torch.arange(batch)
    K[:, 1, 1] = 7 + torch.arange(batch)
    return K


def test_motion_is_in_units_of_the_frustum_at_the_first_depth() -> None:
    points = torch.zeros(1, 2, *SIZE, 3)
    points[..., 2] = 2
    points[0, 1] += torch.tensor((0.3, -0.4, 0.5))
    K = torch.tensor([[[12.0, 0, 3], [0, 8, 2], [0, 0, 1]]])
    motion, valid = normalize_motion(points, K, image_size=SIZE)
    assert motion.shape == (1, 3, 2, *SIZE) and valid.all()
    expected = (0.3 * 12 / (6 * 2), -0.4 * 8 / (4 * 2), 0.5 / 2)
    torch.testing.assert_close(motion[0, :, 1, 1, 2], torch.tensor(expected))
    assert (motion[:, :, 0] == 0).all()


@given(seed=st.integers(0, 10_000), batch=st.integers(1, 3), frames=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_denormalising_undoes_normalising(seed: int, batch: int, frames: int) -> None:
    points, K = trajectories(batch, frames, seed=seed), cameras(batch)
    motion, _ = normalize_motion(points, K, image_size=SIZE)
    back = denormalize_motion(motion, points[:, 0], K, image_size=SIZE)
    torch.testing.assert_close(back, points, rtol=0, atol=1e-12)


def test_the_round_trip_is_exact_to_1e_6_in_float32() -> None:
    points, K = trajectories(dtype=torch.float32), cameras(dtype=torch.float32)
    motion, _ = normalize_motion(points, K, image_size=SIZE)
    back = denormalize_motion(motion, points[:, 0], K, image_size=SIZE)
    assert ((back - points).abs() / points.abs().clamp(min=1)).max() <= 1e-6


def test_every_sample_is_normalised_by_its_own_camera() -> None:
    points = trajectories(1).repeat(2, 1, 1, 1, 1)
    motion, _ = normalize_motion(points, cameras(), image_size=SIZE)
    torch.testing.assert_close(motion[1, 0], motion[0, 0] * 6 / 5)
    torch.testing.assert_close(motion[1, 1], motion[0, 1] * 8 / 7)
    torch.testing.assert_close(motion[1, 2], motion[0, 2])


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_an_invalid_first_depth_gives_no_motion_and_is_marked(bad: float) -> None:
    points = trajectories()
    points[0, 0, 1, 2, 2] = bad
    motion, valid = normalize_motion(points, cameras(), image_size=SIZE)
    assert (motion[0, :, :, 1, 2] == 0).all() and torch.isfinite(motion).all()
    assert not valid[0, 1, 2] and valid.sum() == valid.numel() - 1


def test_an_invalid_first_depth_does_not_poison_the_gradient() -> None:
    points = trajectories()
    points[0, 0, 0, 0, 2] = math.nan
    points.requires_grad_()
    normalize_motion(points, cameras(), image_size=SIZE)[0].square().sum().backward()
    assert points.grad is not None and torch.isfinite(points.grad).all() and points.grad.abs().sum() > 0


def test_gradients_of_both_directions_are_right() -> None:
    points, K = trajectories(1, 2).requires_grad_(), cameras(1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p, k: normalize_motion(p, k, image_size=SIZE)[0], (points, K), fast_mode=True
    )
    motion = torch.randn(1, 3, 2, *SIZE, dtype=torch.float64, requires_grad=True)
    first = points[:, 0].detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda m, p, k: denormalize_motion(m, p, k, image_size=SIZE), (motion, first, K), fast_mode=True
    )


def test_a_shape_or_camera_that_does_not_fit_is_named() -> None:
    points, K = trajectories(), cameras()
    with pytest.raises(ValueError, match="one camera each"):
        normalize_motion(points, K[0], image_size=SIZE)
    with pytest.raises(ValueError, match=r"\[B, T, H, W, 3\]"):
        normalize_motion(points[0], K, image_size=SIZE)
    with pytest.raises(ValueError, match="motion is"):
        denormalize_motion(torch.zeros(2, 3, 1, 9, 9), points[:, 0], K, image_size=SIZE)
    with pytest.raises(ValueError, match="positive pixels"):
        normalize_motion(points, torch.zeros_like(K), image_size=SIZE)
