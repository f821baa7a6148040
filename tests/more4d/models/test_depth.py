import math

import pytest
import torch
from more4d.geometry.cameras import intrinsics_from_fov, unproject
from more4d.models.depth import TINY, DepthConfig, DepthNetwork, camera_rays, network_size


@pytest.fixture
def network() -> DepthNetwork:
    torch.manual_seed(0)
    return DepthNetwork.from_config(TINY).eval()


def pictures(batch: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("size", [(64, 96), (128, 192), (96, 64), (368, 512), (48, 48)])
def test_prediction_has_the_images_size_and_valid_ranges(network: DepthNetwork, size: tuple[int, int]) -> None:
    found = network.infer(pictures(2, *size))
    assert found.depth.shape == found.confidence.shape == (2, *size)
    assert found.points.shape == (2, *size, 3)
    assert bool((found.depth > 0).all())
    assert bool(((found.confidence >= 0) & (found.confidence <= 1)).all())


def test_points_are_the_depth_unprojected_with_the_given_intrinsics(network: DepthNetwork) -> None:
    camera = intrinsics_from_fov(64, 96, 40)[None]
    camera[0, 0, 2] += 5
    found = network.infer(pictures(1, 64, 96), camera)
    assert torch.equal(found.intrinsics, camera)
    torch.testing.assert_close(found.points, unproject(found.depth, camera))


def test_given_intrinsics_change_the_depth(network: DepthNetwork) -> None:
    image = pictures(1, 64, 96)
    narrow, wide = (network.infer(image, intrinsics_from_fov(64, 96, fov)[None]) for fov in (30, 80))
    assert not torch.allclose(narrow.depth, wide.depth)


def test_without_intrinsics_the_field_of_view_is_estimated(network: DepthNetwork) -> None:
    camera = network.infer(pictures(1, 128, 192)).intrinsics[0]
    assert camera[0, 0] == camera[1, 1]
    assert camera[0, 2] == 96
    assert camera[1, 2] == 64
    fov = 2 * math.degrees(math.atan(96 / float(camera[0, 0])))
    assert 10 < fov < 120


def test_own_estimate_given_back_changes_nothing(network: DepthNetwork) -> None:
    image = pictures(1, 64, 96)
    first = network.infer(image)
    torch.testing.assert_close(network.infer(image, first.intrinsics).depth, first.depth)


def test_relative_depth_has_median_zero(network: DepthNetwork) -> None:
    raw = network(torch.rand(3, 3, 64, 96))
    assert raw.relative.flatten(1).median(1).values.tolist() == [0, 0, 0]


def test_intrinsics_keep_their_meaning_at_another_resolution(network: DepthNetwork) -> None:
    small = torch.full((1, 3, 64, 96), 128, dtype=torch.uint8)
    large = torch.full((1, 3, 128, 192), 128, dtype=torch.uint8)
    near, far = (
        network.infer(image, intrinsics_from_fov(*image.shape[-2:], 50)[None]).depth for image in (small, large)
    )
    torch.testing.assert_close(near.median(), far.median(), rtol=1e-2, atol=0)


def test_network_size_keeps_aspect_and_area() -> None:
    assert network_size((64, 96), TINY) == (64, 96)
    assert network_size((368, 512), TINY) == (64, 96)
    height, width = network_size((1000, 250), TINY)
    assert (height % 16, width % 16) == (0, 0)
    assert height > 2 * width


def test_rays_go_through_pixel_centres() -> None:
    camera = torch.tensor([[[10.0, 0, 4], [0, 20, 2], [0, 0, 1]]])
    rays = camera_rays(camera, (4, 8))
    assert rays[0, :, 0, 0].tolist() == pytest.approx([-0.35, -0.075])
    assert rays[0, :, 3, 7].tolist() == pytest.approx([0.35, 0.075])


def test_the_tiny_network_stays_small() -> None:
    assert sum(p.numel() for p in DepthNetwork.from_config(TINY).parameters()) <= 600_000


def test_wrong_inputs_are_refused_by_name(network: DepthNetwork) -> None:
    with pytest.raises(ValueError, match="rgb must be uint8"):
        network.infer(torch.rand(1, 3, 64, 96))
    with pytest.raises(ValueError, match=r"camera must be \[2,3,3\]"):
        network.infer(pictures(2, 64, 96), torch.eye(3)[None])
    with pytest.raises(ValueError, match="multiples of 16"):
        DepthConfig(height=60, width=96, channels=(8, 8, 8, 8))
