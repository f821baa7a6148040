import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from more4d.geometry.cameras import (
    intrinsics_from_fov,
    invert_pose,
    look_at,
    move_intrinsics,
    pixel_centres,
    project,
    resize_cover,
    transform,
    unproject,
)

K = torch.tensor([[20.0, 0.5, 5.0], [0, 30.0, 4.0], [0, 0, 1]], dtype=torch.float64)


def test_pixel_centres_are_at_a_half() -> None:
    uv = pixel_centres(2, 3)
    assert uv.shape == (2, 3, 2) and uv.dtype == torch.float32
    assert uv[0, 0].tolist() == [0.5, 0.5] and uv[1, 2].tolist() == [2.5, 1.5]


def test_the_ray_of_a_pixel_is_what_one_computes_by_hand() -> None:
    intrinsics = torch.tensor([[4.0, 0, 2.0], [0, 8.0, 1.5], [0, 0, 1]])
    points = unproject(torch.full((3, 4), 2.0), intrinsics)
    # Row 1 is on the axis (1.5 - 1.5); column 3 is 1.5 right of it, so x = 1.5 / 4 * 2.
    assert points[1, 3].tolist() == [0.75, 0.0, 2.0]
    assert points[2, 0].tolist() == [-0.75, 0.25, 2.0]


@given(seed=st.integers(0, 1000), batch=st.integers(0, 2))
@settings(max_examples=15, deadline=None)
def test_projection_undoes_unprojection_in_any_pose(seed: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (3,) * batch
    depth = torch.rand(*shape, 5, 7, generator=generator, dtype=torch.float64) + 0.5
    intrinsics = K.repeat(*shape, 1, 1) + torch.rand(*shape, 1, 1, generator=generator) * torch.diag(K.diagonal())
    intrinsics[..., 2, 2] = 1
    pose = look_at(torch.randn(3, generator=generator, dtype=torch.float64), (0.1, 0.2, 5.0))
    world = transform(unproject(depth, intrinsics), pose)
    pixels, seen_depth = project(world, intrinsics, pose.expand(*shape, 4, 4))
    torch.testing.assert_close(pixels, pixel_centres(5, 7, dtype=torch.float64).expand_as(pixels))
    torch.testing.assert_close(seen_depth, depth)


def test_every_sample_of_a_batch_uses_its_own_camera() -> None:
    batch = torch.stack((K, K * torch.tensor([[2.0], [2.0], [1.0]])))
    pixels, _ = project(torch.ones(2, 4, 3, dtype=torch.float64), batch)
    torch.testing.assert_close(pixels[1], 2 * pixels[0])


def test_one_depth_map_can_be_seen_by_many_cameras() -> None:
    assert unproject(torch.ones(4, 6), K.float().expand(3, 3, 3)).shape == (3, 4, 6, 3)


def test_points_at_and_behind_the_camera_keep_their_depth_and_stay_finite() -> None:
    points = torch.tensor([[1.0, 1, 0], [1, 1, -2]], requires_grad=True)
    pixels, depth = project(points, K.float())
    assert depth.tolist() == [0, -2]
    pixels.sum().backward()
    assert torch.isfinite(pixels).all() and points.grad is not None and torch.isfinite(points.grad).all()


def test_too_large_a_camera_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="batch dimensions"):
        project(torch.ones(3), K.expand(2, 3, 3))
    with pytest.raises(ValueError, match="batch dimensions"):
        transform(torch.ones(3), torch.eye(4).expand(2, 4, 4))


def test_inverting_a_pose_twice_gives_it_back() -> None:
    pose = look_at((1.0, -2.0, 0.5), (0.0, 0.3, 4.0))
    torch.testing.assert_close(pose @ invert_pose(pose), torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(invert_pose(invert_pose(pose)), pose)


def test_look_at_is_upright_and_puts_the_target_on_the_axis() -> None:
    pose = look_at((1.0, -2.0, 0.5), (0.0, 0.3, 4.0))
    rotation = pose[:3, :3]
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(3, dtype=torch.float64))
    assert torch.linalg.det(rotation).item() == pytest.approx(1)
    assert rotation[1, 0].item() == pytest.approx(0), "the x axis is horizontal"
    assert rotation[1, 1] > 0, "the y axis points down, as in the first camera"
    seen = transform(torch.tensor((0.0, 0.3, 4.0), dtype=torch.float64), invert_pose(pose))
    torch.testing.assert_close(seen[:2], torch.zeros(2, dtype=torch.float64))
    assert seen[2] > 0


def test_looking_straight_ahead_is_the_identity() -> None:
    torch.testing.assert_close(look_at((0.0, 0.0, 0.0), (0.0, 0.0, 3.0)), torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize(("target", "up"), [((0.0, 0.0, 0.0), (0.0, -1.0, 0.0)), ((0.0, 5.0, 0.0), (0.0, -1.0, 0.0))])
def test_a_view_without_direction_or_up_is_refused(target: tuple[float, ...], up: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="off its target"):
        look_at((0.0, 0.0, 0.0), target, up)


def test_field_of_view_spans_the_width() -> None:
    intrinsics = intrinsics_from_fov(64, 96, 60.0)
    edge = torch.tensor([math.tan(math.radians(30)), 0.0, 1.0])
    torch.testing.assert_close(project(edge, intrinsics)[0], torch.tensor([96.0, 32.0]))
    with pytest.raises(ValueError, match="between 0 and 180"):
        intrinsics_from_fov(64, 96, 180.0)


def test_a_taller_image_is_cropped_about_its_centre() -> None:
    crop = resize_cover((384, 512), (368, 512))
    assert (crop.scale, crop.top, crop.left) == (1.0, 8.0, 0.0)
    assert crop.box == (0, 8, 512, 376)


@given(
    size=st.tuples(st.integers(1, 900), st.integers(1, 900)), target=st.tuples(st.integers(1, 300), st.integers(1, 300))
)
@settings(max_examples=50, deadline=None)
def test_a_resized_image_covers_the_target_and_its_camera_sees_the_same(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    crop = resize_cover(size, target)
    left, top, right, bottom = crop.box
    assert left >= 0 and top >= 0 and right <= size[1] * (1 + 1e-9) and bottom <= size[0] * (1 + 1e-9)
    assert left + right == pytest.approx(size[1]) and top + bottom == pytest.approx(size[0])
    point = torch.tensor((0.1, -0.2, 2.0), dtype=torch.float64)
    before, after = project(point, K)[0], project(point, move_intrinsics(K, crop))[0]
    torch.testing.assert_close(after, before * crop.scale - torch.tensor((crop.left, crop.top), dtype=torch.float64))


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        resize_cover((0, 5), (3, 3))
