"""Latents at toy size: [2, 16, 2, 4, 6] for videos [2, 3, 5, 32, 48]."""

from typing import Any

import pytest
import torch
from more4d.models.bundle import Models
from more4d.models.trajectory_codec import TrajectoryCodecConfig
from more4d.models.vae import (
    PUBLISHED_MOTION_MEAN,
    PUBLISHED_MOTION_STD,
    LinearStartWanVAE,
    MotionVAE,
    MotionVAEConfig,
    cell_vectors,
    cells_to_video,
)
from torch import Tensor

SMALL = {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
LATENT, VIDEO = (2, 16, 2, 4, 6), (2, 3, 5, 32, 48)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def shaken(models: Models) -> MotionVAE:
    """The motion VAE with an encoder network, all of its weights random, none zero."""
    config = models.config.motion_vae.model_copy(update={"vae": {"base_dim": 4, "encoder_network": True}})
    torch.manual_seed(1)
    vae = MotionVAE(config)
    for parameter in vae.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return vae.eval().requires_grad_(False)


def test_a_video_is_the_sum_of_its_cells() -> None:
    video = random(*VIDEO)
    first, groups = cell_vectors(video[:, :, :1]), cell_vectors(video[:, :, 1:])
    assert (first.shape, groups.shape) == ((2, 1, 4, 6, 192), (2, 1, 4, 6, 768))
    again = torch.cat([cells_to_video(first, 1), cells_to_video(groups, 4)], dim=2)
    assert torch.equal(again, video)
    assert torch.equal(groups[0, 0, 1, 2].unflatten(0, (3, 4, 8, 8)), video[0, :, 1:, 8:16, 16:24])


def test_a_fresh_instance_is_exactly_the_linear_codec(models: Models) -> None:
    vae = models.vae.vae
    z = random(*LATENT) * 0.3
    assert torch.equal(vae.decode(z).sample, vae.linear_decode(z).clamp(-1, 1))
    assert torch.equal(vae.encode(random(*VIDEO)).latent_dist.mode(), vae.linear_encode(random(*VIDEO)))


def test_a_fresh_encoder_network_adds_nothing() -> None:
    vae: Any = LinearStartWanVAE(base_dim=4, encoder_network=True)
    for basis in (vae.first_basis, vae.group_basis):
        basis.data.normal_()
    with torch.no_grad():
        posterior = vae.encode(random(*VIDEO)).latent_dist
    assert torch.equal(posterior.mode(), vae.linear_encode(random(*VIDEO)))
    assert torch.equal(posterior.logvar, torch.full_like(posterior.logvar, -6))


def test_what_the_basis_spans_comes_back_unharmed(models: Models) -> None:
    latent = random(*LATENT) * 0.05
    video = models.vae.decode_video(latent)
    assert video.abs().max() < 1
    assert torch.allclose(models.vae.encode_video(video), latent, atol=1e-5)


def test_no_motion_is_a_zero_latent_and_a_zero_latent_no_motion(models: Models) -> None:
    assert not models.vae.encode_motion(torch.zeros(*VIDEO)).any()
    assert not models.vae.decode_motion(torch.zeros(*LATENT)).any()


def test_motion_has_a_normalisation_of_its_own(models: Models) -> None:
    vae, motion = models.vae, random(*VIDEO) * 0.1
    as_video = vae.encode_video(vae.trajectory_encoder(motion))
    assert torch.allclose(vae.encode_motion(motion), as_video / 0.2)
    per_channel = models.config.motion_vae.model_copy(update={"motion_mean": (0.5,) * 16, "motion_std": (0.2,) * 16})
    other = MotionVAE(per_channel).requires_grad_(False)
    other.load_state_dict(vae.state_dict())
    assert torch.allclose(other.encode_motion(motion), (as_video - 0.5) / 0.2, atol=1e-5)
    assert torch.allclose(other.linear_decode_motion((random(*LATENT) * 0.1 - 0.5) / 0.2), _linear(vae), atol=1e-4)


def _linear(vae: MotionVAE) -> Tensor:
    return vae.trajectory_decoder.inverse(vae.linear_decode_video(random(*LATENT) * 0.1))


def test_a_later_frame_leaves_earlier_latents_alone(models: Models, shaken: MotionVAE) -> None:
    video = random(1, 3, 9, 16, 16).clamp(-1, 1)
    changed = video.clone()
    changed[:, :, 5:] = -changed[:, :, 5:]
    for vae in (models.vae, shaken):
        before, after = vae.encode_video(video), vae.encode_video(changed)
        assert torch.allclose(before[:, :, :2], after[:, :, :2], atol=1e-6)
        assert not torch.allclose(before[:, :, 2], after[:, :, 2], atol=1e-3)


def test_a_later_latent_leaves_earlier_frames_alone(shaken: MotionVAE) -> None:
    latent = random(1, 16, 3, 2, 2)
    changed = latent.clone()
    changed[:, :, 2] = 0
    before, after = shaken.decode_motion(latent), shaken.decode_motion(changed)
    assert torch.allclose(before[:, :, :5], after[:, :, :5], atol=1e-6)
    assert not torch.allclose(before[:, :, 5:], after[:, :, 5:], atol=1e-3)


def test_the_first_frame_never_moves(shaken: MotionVAE) -> None:
    motion = shaken.decode_motion(random(*LATENT))
    assert motion.shape == VIDEO
    assert not motion[:, :, 0].any()
    assert motion[:, :, 1:].abs().min(dim=2).values.any()


def test_half_precision_does_not_reach_the_linear_codec(models: Models) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = models.vae.vae.linear_encode(random(*VIDEO))
        video = models.vae.vae.linear_decode(random(*LATENT))
    assert torch.equal(found, models.vae.vae.linear_encode(random(*VIDEO)))
    assert torch.equal(video, models.vae.vae.linear_decode(random(*LATENT)))


def test_the_published_vae_is_diffusers_own() -> None:
    vae = MotionVAE(MotionVAEConfig(vae=SMALL)).eval().requires_grad_(False)
    assert type(vae.vae).__name__ == "AutoencoderKLWan"
    video = random(1, 3, 5, 16, 16)
    mean, std = (torch.tensor(vae.vae.config[f"latents_{k}"]).reshape(1, 16, 1, 1, 1) for k in ("mean", "std"))
    assert torch.allclose(vae.encode_video(video), (vae.vae.encode(video).latent_dist.mode() - mean) / std)


def test_the_published_normalisation_is_applied_per_channel_in_both_directions() -> None:
    torch.manual_seed(0)
    plain = MotionVAE(MotionVAEConfig(vae=SMALL)).eval().requires_grad_(False)
    published = MotionVAE(
        MotionVAEConfig(vae=SMALL, motion_mean=PUBLISHED_MOTION_MEAN, motion_std=PUBLISHED_MOTION_STD)
    ).eval()
    published.load_state_dict(plain.state_dict())
    mean, std = (torch.tensor(v).reshape(1, 16, 1, 1, 1) for v in (PUBLISHED_MOTION_MEAN, PUBLISHED_MOTION_STD))
    motion, latent = random(1, 3, 5, 16, 16) * 0.1, random(1, 16, 2, 2, 2)
    torch.testing.assert_close(published.encode_motion(motion), (plain.encode_motion(motion) - mean) / std)
    torch.testing.assert_close(published.decode_motion((latent - mean) / std), plain.decode_motion(latent))
    # Pictures and renders share the VAE but not the motion's statistics.
    torch.testing.assert_close(published.encode_video(motion), plain.encode_video(motion))
    torch.testing.assert_close(published.decode_video(latent), plain.decode_video(latent))


def test_a_config_with_the_published_constants_survives_json() -> None:
    config = MotionVAEConfig(motion_mean=PUBLISHED_MOTION_MEAN, motion_std=PUBLISHED_MOTION_STD)
    assert MotionVAEConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"motion_mean": (0.0,) * 3}, "3 values for 16 latent channels"),
        ({"motion_std": 0.0}, "must be positive"),
        ({"motion_camera": (1.0, 0.0, 1.0)}, "motion_camera=.* must be positive"),
    ],
)
def test_a_normalisation_that_cannot_be_undone_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MotionVAEConfig(**changes)


def test_the_trajectory_encoder_learns_through_the_frozen_vae() -> None:
    torch.manual_seed(0)
    vae = MotionVAE(MotionVAEConfig(codec=TrajectoryCodecConfig(width=8, groups=4), vae=SMALL))
    vae.vae.requires_grad_(False)
    optimizer = torch.optim.SGD(vae.trajectory_encoder.parameters(), lr=0.1)

    def gradients() -> dict[str, float]:
        optimizer.zero_grad()
        vae.encode_motion(random(1, 3, 5, 16, 16)).square().sum().backward()
        return {n: float(p.grad.abs().max()) for n, p in vae.named_parameters() if p.grad is not None}

    # The output layer starts at zero: at the first step it alone learns, and it opens the way to the rest.
    assert {name for name, size in gradients().items() if size > 0} == {
        f"trajectory_encoder.net.conv_out.{part}" for part in ("weight", "bias")
    }
    optimizer.step()
    moved = gradients()
    assert set(moved) == {f"trajectory_encoder.{name}" for name, _ in vae.trajectory_encoder.named_parameters()}
    assert min(moved.values()) > 0
