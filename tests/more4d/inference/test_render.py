from collections.abc import Callable

import numpy as np
import pytest
import torch
from more4d.geometry.paths import camera_path
from more4d.inference.render import mend, render_path, stretch, surfels, visible_points
from numpy.typing import NDArray

H, W = 32, 48
Lift = Callable[[NDArray, NDArray], NDArray]
HERE = np.eye(4, dtype=np.float32)[None]


def test_the_first_camera_sees_the_photo(photo: NDArray, intrinsics: NDArray, lift: Lift) -> None:
    points = lift(np.full((H, W), 4.0), intrinsics)[None]
    render, covered = render_path(points, photo, intrinsics, HERE)
    assert covered.all()
    assert np.abs(render[0].astype(int) - photo)[1:-1, 1:-1].max() <= 12


def test_a_camera_moved_right_sees_the_points_further_left_and_a_hole(
    photo: NDArray, intrinsics: NDArray, lift: Lift
) -> None:
    points = lift(np.full((H, W), 4.0), intrinsics)[None]
    pose = HERE.copy()
    # 4 m away, 48 pixels of focal length: a metre is 12 pixels.
    pose[0, 0, 3] = 1.0
    render, covered = render_path(points, photo, intrinsics, pose)
    assert covered[0, 1:-1, : W - 13].all()
    assert not covered[0, :, W - 11 :].any()
    assert (render[0, :, W - 11 :] == 0).all()
    assert np.abs(render[0, 4:-4, 2 : W - 14].astype(int) - photo[4:-4, 14 : W - 2]).max() <= 12


def test_what_is_nearer_hides_what_is_behind(intrinsics: NDArray, lift: Lift) -> None:
    depth = np.full((H, W), 5.0)
    depth[10:20, 10:20] = 2.0
    colours = np.where((depth < 3)[..., None], [255, 0, 0], [0, 0, 255]).astype(np.uint8)
    points = lift(depth, intrinsics)
    moved = points + np.array([0.5, 0, 0]) * (depth < 3)[..., None]
    render, _ = render_path(moved[None].astype(np.float32), colours, intrinsics, HERE)
    assert (render[0, 12:18, 24:30, 0] > 240).all()
    assert (render[0, 12:18, 24:30, 2] < 15).all()


def test_a_surface_seen_at_a_grazing_angle_stays_closed_when_it_turns_to_the_camera(
    intrinsics: NDArray, lift: Lift
) -> None:
    v = np.arange(H) + 0.5
    depth = np.tile((60 / (v + 4))[:, None], (1, W))
    points = lift(depth, intrinsics)[None]
    pose = camera_path("top_down", 2, centre=(0, 0, 3.0)).float().numpy()[1:]
    colours = np.full((H, W, 3), 200, np.uint8)
    _, covered = render_path(points, colours, intrinsics, pose)
    columns = covered[0, :, W // 2]
    seen = np.flatnonzero(columns)
    assert columns[seen[0] : seen[-1] + 1].all()


def test_a_view_at_twice_the_size_shows_the_same(photo: NDArray, intrinsics: NDArray, lift: Lift) -> None:
    points = lift(np.full((H, W), 4.0), intrinsics)[None]
    large, covered = render_path(points, photo, intrinsics, HERE, size=(2 * H, 2 * W))
    assert covered.mean() > 0.97
    means = large[0].reshape(H, 2, W, 2, 3).mean((1, 3))
    assert np.abs(means - photo)[2:-2, 2:-2].max() <= 12


def test_points_that_are_nowhere_are_not_drawn(photo: NDArray, intrinsics: NDArray, lift: Lift) -> None:
    points = lift(np.full((H, W), 4.0), intrinsics)[None]
    points[:, :, 20:] = np.nan
    _, covered = render_path(points, photo, intrinsics, HERE)
    assert covered[:, :, :19].all()
    assert not covered[:, :, 22:].any()


def test_splats_lie_in_their_surface(intrinsics: NDArray, lift: Lift) -> None:
    v = np.arange(H) + 0.5
    points = lift(np.tile((60 / (v + 4))[:, None], (1, W)), intrinsics)
    scales, quats = surfels(points, float(intrinsics[0, 0]))
    w, x, y, z = quats.unbind(-1)
    normals = torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], -1)
    across, down = np.diff(points, axis=1)[:-1], np.diff(points, axis=0)[:, :-1]
    true = torch.from_numpy(np.cross(across, down)).flatten(0, 1)
    ours = normals.unflatten(0, (H, W))[:-1, :-1].flatten(0, 1)
    cosine = torch.cosine_similarity(true.double(), ours.double()).abs()
    assert cosine.median() > 0.999
    assert (scales[:, 2] < scales[:, 1] + 1e-9).all()


def test_visibility_is_being_inside_and_behind_nothing(intrinsics: NDArray, lift: Lift) -> None:
    depth = np.full((H, W), 5.0)
    depth[10:20, 10:20] = 2.0
    points = np.tile(lift(depth, intrinsics), (3, 1, 1, 1))
    near = depth < 3
    points[1, near, 0] += 0.5
    points[2, :, :, 0] += 50
    visible = visible_points(points, intrinsics)
    assert visible[0].all()
    assert visible[1][near].all()
    # Half a metre at 2 m is 12 pixels: the patch now hides the wall behind columns 22 to 31.
    assert not visible[1, 11:19, 23:31].any()
    assert not visible[2].any()


def test_mending_closes_cracks_and_drops_specks_but_leaves_holes() -> None:
    image, alpha = torch.full((256, 384, 3), 0.5), torch.ones(256, 384)
    alpha[100, 100:108] = 0
    alpha[50:90, 200:260] = 0
    alpha[60, 230] = 1
    picture, covered = mend(image, alpha)
    assert covered[100, 100:108].all()
    assert (picture[100, 100:108] == 128).all()
    assert not covered[50:90, 200:260].any()


def test_stretched_intrinsics_see_the_same_rays(intrinsics: NDArray) -> None:
    ray = np.array([0.2, -0.1, 1.0])
    assert stretch(intrinsics, 4) @ ray == pytest.approx(np.array([4, 4, 1]) * (intrinsics @ ray))
