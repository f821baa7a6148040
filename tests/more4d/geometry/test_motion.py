import numpy as np
import pytest
import torch
from more4d.geometry.motion import (
    MotionScale,
    metres_per_unit,
    motion_from_points,
    normalize_motion,
    points_from_motion,
    scaled_motion,
    unscaled_points,
)


def test_one_sample_is_normalised_as_in_a_batch_and_comes_back() -> None:
    points = torch.rand(3, 4, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
    intrinsics = torch.tensor([[5.0, 0, 3], [0, 7, 2], [0, 0, 1]], dtype=torch.float64)
    motion, valid = motion_from_points(points, intrinsics)
    batched, _ = normalize_motion(points[None], intrinsics[None], image_size=(4, 6))
    assert torch.equal(motion, batched[0]) and motion.shape == (3, 3, 4, 6) and valid.shape == (4, 6) and valid.all()
    torch.testing.assert_close(points_from_motion(motion, points[0], intrinsics), points)


def trajectories() -> tuple[torch.Tensor, torch.Tensor]:
    """Points [2, 3, 4, 6, 3], all but one in front of their cameras, and the intrinsics [2, 3, 3]."""
    points = torch.rand(2, 3, 4, 6, 3, generator=torch.Generator().manual_seed(0)) + 1
    points[1, 0, 2, 3, 2] = -1
    return points, torch.tensor([[[5.0, 0, 3], [0, 7, 2], [0, 0, 1]]]).repeat(2, 1, 1)


@pytest.mark.parametrize("scale", ["sample", "published", (0.5, 2.0, 4.0)])
def test_motion_of_any_scale_comes_back_and_its_unit_says_how_far_it_goes(scale: MotionScale) -> None:
    points, intrinsics = trajectories()
    motion, valid = scaled_motion(points, intrinsics, scale)
    assert int((~valid).sum()) == 1 and not motion[1, :, :, 2, 3].any()
    back = unscaled_points(motion, points[:, 0], intrinsics, scale)
    assert torch.allclose(
        back[valid[:, None].expand(-1, 3, -1, -1)], points[valid[:, None].expand(-1, 3, -1, -1)], atol=1e-6
    )
    unit = torch.from_numpy(metres_per_unit(points[0, 0, ..., 2].numpy(), intrinsics[0].numpy(), scale))
    metres = (points[0] - points[0, :1]).permute(3, 0, 1, 2)
    assert torch.allclose(motion[0] * unit[:, None], metres, atol=1e-5)


def test_without_a_frustum_a_metre_is_the_same_near_and_far() -> None:
    points, intrinsics = trajectories()
    far = points + torch.tensor((0.0, 0.0, 50.0))
    near, _ = scaled_motion(points[:1], intrinsics[:1], (1.0, 1.0, 1.0))
    assert torch.allclose(scaled_motion(far[:1], intrinsics[:1], (1.0, 1.0, 1.0))[0], near, atol=1e-5)
    assert not torch.allclose(
        scaled_motion(far[:1], intrinsics[:1], "sample")[0],
        scaled_motion(points[:1], intrinsics[:1], "sample")[0],
        atol=0.1,
    )
    assert np.array_equal(metres_per_unit(np.ones((2, 2), np.float32), np.eye(3), (1.0, 2.0, 3.0))[:, 0, 1], [1, 2, 3])
