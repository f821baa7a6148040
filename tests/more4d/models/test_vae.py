"""Latents at toy size: [2, 16, 2, 4, 6] for videos [2, 3, 5, 32, 48]."""

from typing import Any

import pytest
import torch
from more4d.models.bundle import Models
from more4d.models.vae import LinearStartWanVAE, MotionVAE, MotionVAEConfig, cell_vectors, cells_to_video
from torch import Tensor

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
    small = {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    vae = MotionVAE(MotionVAEConfig(vae=small)).eval().requires_grad_(False)
    assert type(vae.vae).__name__ == "AutoencoderKLWan"
    video = random(1, 3, 5, 16, 16)
    mean, std = (torch.tensor(vae.vae.config[f"latents_{k}"]).reshape(1, 16, 1, 1, 1) for k in ("mean", "std"))
    assert torch.allclose(vae.encode_video(video), (vae.vae.encode(video).latent_dist.mode() - mean) / std)
