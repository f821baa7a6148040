import math

import pytest
import torch
from more4d.geometry.cameras import invert_pose, transform
from more4d.geometry.paths import CAMERA_NAMES, ORBIT_DEGREES, camera_path, scene_centre
from torch import Tensor

CENTRE = (0.0, 0.0, 3.0)


def seen_centre(path: Tensor, centre: tuple[float, float, float] = CENTRE) -> Tensor:
    """The scene centre in every camera's frame [T, 3]."""
    return torch.stack([transform(torch.tensor(centre, dtype=torch.float64), invert_pose(pose)) for pose in path])


@pytest.mark.parametrize("centre", [CENTRE, (0.4, -0.3, 2.0)])
@pytest.mark.parametrize("name", CAMERA_NAMES)
def test_every_path_is_a_smooth_walk_of_proper_cameras_from_the_identity(
    name: str, centre: tuple[float, float, float]
) -> None:
    path = camera_path(name, 49, centre=centre)
    rotations = path[:, :3, :3]
    identity = torch.eye(4, dtype=torch.float64)
    assert path.shape == (49, 4, 4) and path.dtype == torch.float64
    torch.testing.assert_close(path[0], identity)
    torch.testing.assert_close(rotations @ rotations.mT, identity[:3, :3].expand(49, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(49, dtype=torch.float64))
    assert (path[:, 3] == identity[3]).all()
    steps = path[:, :3, 3].diff(dim=0).norm(dim=1)
    assert steps.max() < 0.1, "no jump"
    assert steps[0] <= steps.max() * 0.5 or name == "static", "the camera sets off gently"


@pytest.mark.parametrize(("name", "side"), [("circle_left", -1), ("circle_right", 1)])
def test_circles_go_to_their_side_at_constant_distance_looking_at_the_centre(name: str, side: int) -> None:
    path = camera_path(name, 13, centre=CENTRE)
    x, y, z = path[:, :3, 3].T
    assert (x[1:] * side > 0).all() and (x.diff() * side > 0).all() and (y == 0).all() and (z[1:] > 0).all()
    torch.testing.assert_close(seen_centre(path), torch.tensor(CENTRE, dtype=torch.float64).expand(13, 3))
    assert x[-1].item() == pytest.approx(side * 3 * math.sin(math.radians(ORBIT_DEGREES)))


def test_top_down_rises_and_looks_down_at_the_centre() -> None:
    path = camera_path("top_down", 13, centre=CENTRE)
    assert (path[1:, 1, 3] < 0).all() and (path[:, 1, 3].diff() < 0).all(), "y points down"
    assert (path[1:, 1, 2] > 0).all(), "the view turns down"
    torch.testing.assert_close(seen_centre(path), torch.tensor(CENTRE, dtype=torch.float64).expand(13, 3))


def test_forward_backward_stays_on_the_axis_and_comes_home() -> None:
    path = camera_path("forward_backward", 13, centre=CENTRE)
    z = path[:, 2, 3]
    assert torch.equal(path[:, :3, :3], torch.eye(3, dtype=torch.float64).expand(13, 3, 3))
    assert z.max() > 0.3 and z.min() < -0.3 and z.argmax() < z.argmin() and abs(z[-1]) < 1e-12
    assert z.max() < 1.5, "never near what it looks at"


def test_spiral_turns_once_around_the_axis_looking_at_the_centre() -> None:
    path = camera_path("spiral", 49, centre=CENTRE)
    seen = seen_centre(path)
    torch.testing.assert_close(seen[:, :2], torch.zeros(49, 2, dtype=torch.float64))
    x, y, z = path[:, :3, 3].T
    assert x.min() < 0 < x.max() and y.min() < 0 < y.max() and (z.diff() > 0).all()


@pytest.mark.parametrize("name", [name for name in CAMERA_NAMES if name != "static"])
def test_amount_scales_how_far_a_path_goes(name: str) -> None:
    near, far = (
        camera_path(name, 13, centre=CENTRE, amount=amount)[:, :3, 3].norm(dim=1).max() for amount in (0.5, 1.0)
    )
    assert far / near == pytest.approx(2, rel=0.02)
    torch.testing.assert_close(camera_path(name, 13, centre=CENTRE, amount=0), camera_path("static", 13, centre=CENTRE))


def test_a_clip_of_one_frame_is_the_first_camera() -> None:
    torch.testing.assert_close(camera_path("spiral", 1, centre=CENTRE)[0], torch.eye(4, dtype=torch.float64))


def test_the_scene_centre_is_on_the_axis_at_the_median_of_the_valid_depths() -> None:
    depth = torch.tensor([[1.0, 2.0, 9.0], [0.0, math.nan, math.inf]])
    assert scene_centre(depth).tolist() == [0, 0, 2]
    with pytest.raises(ValueError, match="none of 4 depths"):
        scene_centre(torch.zeros(2, 2))


def test_unknown_cameras_and_impossible_centres_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown camera 'orbit'.*circle_left, circle_right"):
        camera_path("orbit", 13, centre=CENTRE)
    with pytest.raises(ValueError, match="in front of the camera"):
        camera_path("spiral", 13, centre=(0.0, 0.0, -1.0))
    with pytest.raises(ValueError, match="frames=0"):
        camera_path("spiral", 0, centre=CENTRE)
