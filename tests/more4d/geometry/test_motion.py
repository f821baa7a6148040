import torch
from more4d.geometry.motion import motion_from_points, normalize_motion, points_from_motion


def test_one_sample_is_normalised_as_in_a_batch_and_comes_back() -> None:
    points = torch.rand(3, 4, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
    intrinsics = torch.tensor([[5.0, 0, 3], [0, 7, 2], [0, 0, 1]], dtype=torch.float64)
    motion, valid = motion_from_points(points, intrinsics)
    batched, _ = normalize_motion(points[None], intrinsics[None], image_size=(4, 6))
    assert torch.equal(motion, batched[0]) and motion.shape == (3, 3, 4, 6) and valid.shape == (4, 6) and valid.all()
    torch.testing.assert_close(points_from_motion(motion, points[0], intrinsics), points)
