from typing import cast

import pytest
import torch
from more4d.models.conditions import (
    clip_picture,
    depth_latent,
    fold_mask,
    image_latent,
    reference_latent,
    render_with_holes,
    strag_input,
    to_unit_range,
    vism_input,
)
from more4d.models.trajectory_codec import TrajectoryCodecConfig
from more4d.models.vae import MotionVAE, MotionVAEConfig
from torch import Tensor


class SeenVideo:
    """A VAE whose latent of a video is the video."""

    def encode_video(self, video: Tensor) -> Tensor:
        """The video itself."""
        return video


SEEN = cast(MotionVAE, SeenVideo())


def filled(value: float, channels: int = 16) -> Tensor:
    """A latent [1, channels, 2, 4, 6] of one value."""
    return torch.full((1, channels, 2, 4, 6), value)


def depth() -> Tensor:
    """Depth [1, 4, 6] between 1 and 9 metres."""
    return torch.linspace(1, 9, 24).reshape(1, 4, 6)


def test_the_64_channels_are_noise_image_zeros_depth() -> None:
    found = strag_input(filled(1), filled(2), filled(3))
    assert torch.equal(found, torch.cat([filled(1), filled(2), filled(0), filled(3)], dim=1))


def test_the_36_channels_are_noise_mask_render() -> None:
    found = vism_input(filled(1), filled(2, channels=4), filled(3))
    assert torch.equal(found, torch.cat([filled(1), filled(2, 4), filled(3)], dim=1))


@pytest.mark.parametrize("frame", range(9))
def test_the_first_frames_mask_counts_four_times_and_later_ones_by_fours(frame: int) -> None:
    mask = torch.zeros(1, 9, 16, 16, dtype=torch.bool)
    mask[:, frame] = True
    folded = fold_mask(mask)
    expected = torch.zeros(1, 4, 3, 2, 2)
    if frame == 0:
        expected[:, :, 0] = 1
    else:
        expected[:, (frame - 1) % 4, 1 + (frame - 1) // 4] = 1
    assert torch.equal(folded, expected)


def test_a_cell_of_the_mask_is_the_pixel_at_its_centre() -> None:
    mask = torch.zeros(1, 1, 16, 24, dtype=torch.bool)
    mask[0, 0, 12, 4] = True
    assert fold_mask(mask)[0, :, 0].nonzero().tolist() == [[channel, 1, 0] for channel in range(4)]


def test_holes_are_half_way_between_black_and_white() -> None:
    render = to_unit_range(torch.randint(0, 256, (1, 3, 5, 8, 8), dtype=torch.uint8))
    mask = torch.rand(1, 5, 8, 8) < 0.5
    shown = render_with_holes(render, mask)
    holes = ~mask[:, None].expand_as(render)
    assert bool(((shown[holes] + 1) / 2 == 0.5).all())
    assert torch.equal(shown[~holes], render[~holes])


def test_colours_go_from_minus_one_to_one() -> None:
    assert to_unit_range(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]


def test_an_image_stands_still_for_all_frames() -> None:
    image = torch.rand(2, 3, 8, 8)
    assert torch.equal(image_latent(SEEN, image, 5), image[:, :, None].expand(-1, -1, 5, -1, -1))


@pytest.mark.parametrize("encoding", ["linear", "log"])
def test_depth_fills_the_colour_range_whatever_its_unit(encoding: str) -> None:
    metres = depth_latent(SEEN, depth(), 5, encoding)  # type: ignore[arg-type]
    assert metres.shape == (1, 3, 5, 4, 6)
    assert (metres.amin(), metres.amax()) == (-1, pytest.approx(1))
    assert torch.equal(metres[:, :1, :1].expand_as(metres), metres)
    millimetres = depth_latent(SEEN, depth() * 1000, 5, encoding)  # type: ignore[arg-type]
    assert torch.allclose(metres, millimetres, atol=1e-5)


def test_linear_depth_ignores_an_offset_and_log_depth_a_power() -> None:
    assert torch.allclose(
        depth_latent(SEEN, depth(), 1, "linear"), depth_latent(SEEN, depth() + 7, 1, "linear"), atol=1e-5
    )
    assert torch.allclose(depth_latent(SEEN, depth(), 1, "log"), depth_latent(SEEN, depth() ** 2, 1, "log"), atol=1e-5)
    assert not torch.allclose(depth_latent(SEEN, depth(), 1, "log"), depth_latent(SEEN, depth(), 1, "linear"), atol=0.1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), -3.0, 0.0, 9e-6])
def test_depth_that_is_none_counts_as_one_metre(bad: float) -> None:
    spoiled, mended = depth(), depth()
    spoiled[0, 2, 3], mended[0, 2, 3] = bad, 1.0
    assert torch.equal(depth_latent(SEEN, spoiled, 1, "linear"), depth_latent(SEEN, mended, 1, "linear"))


def test_depth_ends_at_ten_kilometres() -> None:
    far, end = depth(), depth()
    far[0, 0, 0], end[0, 0, 0] = 1e7, 1e4
    assert torch.equal(depth_latent(SEEN, far, 1, "log"), depth_latent(SEEN, end, 1, "log"))


def test_a_constant_depth_is_finite_and_each_image_has_its_own_range() -> None:
    assert bool((depth_latent(SEEN, torch.full((1, 4, 6), 3.0), 1, "log") == -1).all())
    pair = depth_latent(SEEN, torch.cat([depth(), depth() * 5]), 1, "linear")
    assert torch.allclose(pair[0], pair[1], atol=1e-5)


@pytest.mark.parametrize("linear_start", [True, False])
@torch.no_grad()
def test_the_reference_is_the_photo_alone_however_many_frames_were_encoded(linear_start: bool) -> None:
    torch.manual_seed(0)
    shape = {"base_dim": 4, "num_res_blocks": 1}
    vae = MotionVAE(
        MotionVAEConfig(codec=TrajectoryCodecConfig(width=8, groups=4), vae=shape, linear_start=linear_start)
    )
    image = torch.rand(2, 3, 16, 32) * 2 - 1
    alone, among = (reference_latent(image_latent(vae, image, frames), "photo") for frames in (1, 9))
    assert alone is not None and among is not None
    torch.testing.assert_close(among, alone, atol=1e-5, rtol=1e-4)
    assert reference_latent(image_latent(vae, image, 1), "none") is None


def test_clip_sees_the_photo_or_mid_grey() -> None:
    image = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2)
    assert torch.equal(clip_picture(image, "photo"), image)
    assert clip_picture(image, "grey").unique().tolist() == [127]


def test_no_depth_at_all_is_a_latent_of_zeros() -> None:
    found = depth_latent(SEEN, torch.rand(2, 16, 24), 5, "none")
    assert found.shape == (2, 16, 2, 2, 3)
    assert not found.any()
