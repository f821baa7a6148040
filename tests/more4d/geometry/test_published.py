"""The published formulas, against what the published code gave: tests/parity/cases/geometry.

Shape letters: T frames, H height, W width.
"""

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from more4d.geometry import motion_from_points, pixel_centres, points_from_motion, published
from safetensors.torch import load_file
from torch import Tensor

CASE = Path(__file__).parents[2] / "parity" / "cases" / "geometry"
LIMIT = 1e-4


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    """The case's settings, its depth filled by the rule that all parity cases share."""
    case = json.loads((CASE / "case.json").read_text())
    seed = zlib.crc32(f"{case['salt']}/input/depth".encode())
    values = np.random.RandomState(seed).standard_normal(tuple(case["inputs"]["depth"])).astype(np.float32)
    return case["inputs"] | {"depth": torch.from_numpy(np.abs(values) + 1)}


@pytest.fixture(scope="module")
def found(given: dict[str, Any]) -> dict[str, Tensor]:
    """What our functions make of the case."""
    size, frames, centre = (given["height"], given["width"]), given["num_frames"], given["center"]
    intrinsics = published.normalised_intrinsics(*size, tuple(given["reference_image_size"]))
    points = published.unproject(given["depth"], intrinsics, size)
    circle = published.circle_rotating(frames, centre=centre, radius=given["circle_rotating_radius"])
    uv, depth = published.project(points.reshape(-1, 3), intrinsics, circle[5])
    paths = {
        "static": published.static(frames),
        "forward_backward": published.forward_backward(frames, radius=given["forward_backward_radius"]),
        "circle_rotating": circle,
        "surrounding": published.surrounding(frames, centre=centre),
        "camera_rotate": published.camera_rotate(frames, max_degrees=given["camera_rotate_max_degree"]),
    }
    poses = {f"camera_to_world_{name}": path for name, path in paths.items()}
    return poses | {"intrinsic": intrinsics, "points": points, "projected_uv": uv, "projected_depth": depth}


@pytest.mark.parametrize("name", sorted(load_file(CASE / "expected.safetensors")))
def test_the_published_numbers_come_out(found: dict[str, Tensor], name: str) -> None:
    expected = load_file(CASE / "expected.safetensors")[name]
    assert found[name].shape == expected.shape
    assert (found[name].float() - expected).norm() <= LIMIT * expected.norm()


def test_the_published_amounts_follow_the_centre(found: dict[str, Tensor], given: dict[str, Any]) -> None:
    for name in published.PUBLISHED_CAMERAS:
        path = published.camera_path(name, given["num_frames"], centre=given["center"])
        torch.testing.assert_close(path, found[f"camera_to_world_{name}"])
    with pytest.raises(ValueError, match="unknown published camera 'spiral'; they are static"):
        published.camera_path("spiral", 3, centre=(0, 0, 1))
    with pytest.raises(ValueError, match="frames=0"):
        published.camera_path("static", 0, centre=(0, 0, 1))


@pytest.mark.parametrize("name", published.PUBLISHED_CAMERAS)
def test_every_pose_is_rigid(name: str) -> None:
    rotation = published.camera_path(name, 7, centre=(0.4, -0.3, 2.0))[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(7, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(7, dtype=torch.float64))


@pytest.mark.parametrize(("height", "width", "fx", "fy"), [(540, 960, 1, 1), (368, 512, 1, 1.27778), (270, 960, 2, 1)])
def test_the_focal_length_of_one_is_along_the_relatively_shorter_side(
    height: int, width: int, fx: float, fy: float
) -> None:
    intrinsics = published.normalised_intrinsics(height, width)
    assert intrinsics.diagonal().tolist() == pytest.approx([fx, fy, 1], abs=1e-4)
    assert intrinsics[:2, 2].tolist() == [0.5, 0.5]


def test_the_constants_in_pixels_give_the_published_motion() -> None:
    height, width = 4, 6
    points = torch.zeros(2, height, width, 3)
    points[..., 2] = 2
    points[1] += torch.tensor((0.3, -0.4, 0.5))
    normalised, pixels = (f(height, width) for f in (published.normalised_intrinsics, published.published_intrinsics))
    motion, valid = motion_from_points(points, pixels)
    expected = (0.3 * float(normalised[0, 0]) / 2, -0.4 * float(normalised[1, 1]) / 2, 0.5 / 2)
    assert valid.all() and motion[:, 1, 1, 2].tolist() == pytest.approx(expected, rel=1e-6)
    assert pixels[:2, 2].tolist() == [3, 2]


@pytest.mark.parametrize("camera", ["sample", "published"])
def test_normalising_and_back_returns_valid_trajectories_and_marks_the_rest(camera: published.MotionCamera) -> None:
    height, width = 12, 16
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(5, height, width, 3, generator=generator)
    points[..., 2] = points[..., 2].abs() * 30 + 0.2
    bad = {(0, 0): 0.0, (1, 3): math.nan, (4, 5): math.inf, (7, 1): -2.0, (11, 15): -math.inf}
    for (row, column), depth in bad.items():
        points[0, row, column, 2] = depth
    own = torch.tensor([[14.0, 0, 8], [0, 15, 6], [0, 0, 1]])
    intrinsics = published.motion_intrinsics(camera, own, (height, width))
    motion, valid = motion_from_points(points, intrinsics)
    assert {tuple(place) for place in (~valid).nonzero().tolist()} == set(bad)
    assert torch.isfinite(motion).all() and not motion[:, :, ~valid].any()
    back = points_from_motion(motion, points[0], intrinsics)
    distance = (back - points).norm(dim=-1)[:, valid]
    assert (distance <= 1e-5 * points.norm(dim=-1)[:, valid]).all()


def test_the_unit_of_motion_is_the_samples_own_unless_asked_otherwise() -> None:
    own = torch.rand(3, 3, 3, dtype=torch.float64)
    assert published.motion_intrinsics("sample", own, (8, 8)) is own
    constants = published.motion_intrinsics("published", own, (8, 12))
    assert constants.shape == own.shape and constants.dtype == own.dtype
    assert torch.equal(constants[2], published.published_intrinsics(8, 12).double())


def test_rays_run_through_the_edges_not_the_pixel_centres() -> None:
    intrinsics = published.normalised_intrinsics(9, 16)
    points = published.unproject(torch.full((3, 4), 2.0), intrinsics, (9, 16))
    uv, depth = published.project(points, intrinsics, torch.eye(4))
    torch.testing.assert_close(depth, torch.full((9, 16), 2.0))
    torch.testing.assert_close(uv[[0, 0, -1], [0, -1, 0]], torch.tensor([[0.0, 0], [1, 0], [0, 1]]))
    ours = pixel_centres(9, 16) / torch.tensor([16, 9])
    assert (uv - ours).abs().max() == pytest.approx(0.5 / 9, abs=1e-4)


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="0x4 image"):
        published.published_intrinsics(0, 4)
