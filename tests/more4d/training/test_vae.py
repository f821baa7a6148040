from pathlib import Path
from typing import Literal

import pytest
import torch
from more4d.models.architectures import Architecture
from more4d.models.vae import MotionVAE, cell_vectors
from more4d.training.base_scenes import BaseScenes
from more4d.training.base_sources import MotionScenes
from more4d.training.draws import Draws
from more4d.training.loop import TrainSettings, train
from more4d.training.vae import MotionVAEObjective, VAELossSettings, codec_error, fit_linear_start, train_or_keep
from torch import Tensor

SETTINGS = TrainSettings(steps=20, batch_size=2, learning_rate=3e-3, warmup_steps=2, log_every=4, checkpoint_every=20)


@pytest.fixture
def source(base_scenes: BaseScenes) -> MotionScenes:
    """Three scenes and their mirror images."""
    return MotionScenes(base_scenes)


@pytest.fixture
def vae(architecture: Architecture, source: MotionScenes) -> MotionVAE:
    """A motion VAE that is its principal components alone."""
    torch.manual_seed(0)
    made = MotionVAE(architecture.motion_vae)
    batch = source.batch(torch.arange(6))
    fit_linear_start(made.vae, [(made.trajectory_encoder.start(batch["motion"]), 0.5), (batch["video"], 0.5)])
    return made


def lost(vectors: Tensor, basis: Tensor) -> float:
    """Share of the vectors' energy that a projection onto the rows of `basis` loses."""
    rest = vectors - vectors @ basis.T @ basis
    return float(rest.square().sum() / vectors.square().sum())


def test_the_linear_start_is_the_best_orthonormal_basis(vae: MotionVAE, source: MotionScenes) -> None:
    video = source.batch(torch.arange(6))["video"]
    fit_linear_start(vae.vae, [(video, 1.0)])
    for basis, frames in ((vae.vae.first_basis, video[:, :, :1]), (vae.vae.group_basis, video[:, :, 1:])):
        vectors = cell_vectors(frames).flatten(0, 3)
        assert torch.allclose(basis @ basis.T, torch.eye(16), atol=1e-5)
        random = torch.linalg.qr(torch.randn(basis.shape[1], 16)).Q.T
        nudged = torch.linalg.qr((basis + 0.02 * torch.randn_like(basis)).T).Q.T
        assert lost(vectors, basis) < lost(vectors, nudged) < lost(vectors, random)
        optimum = torch.linalg.svdvals(vectors.double()).square()
        assert lost(vectors, basis) == pytest.approx(float(optimum[16:].sum() / optimum.sum()), abs=1e-5)


def test_a_kinds_weight_counts_and_its_brightness_does_not(vae: MotionVAE, source: MotionScenes) -> None:
    batch = source.batch(torch.arange(6))
    still, moving = batch["video"], vae.trajectory_encoder.start(batch["motion"])
    vectors = cell_vectors(moving[:, :, 1:]).flatten(0, 3)
    errors = []
    for weight, brightness in ((0.01, 1.0), (0.99, 1.0), (0.99, 0.001)):
        fit_linear_start(vae.vae, [(still, 1 - weight), (moving * brightness, weight)])
        errors.append(lost(vectors, vae.vae.group_basis))
    assert errors[1] < errors[0]
    assert errors[2] == pytest.approx(errors[1], abs=1e-3)


def test_no_motion_stays_nothing_after_the_fit(vae: MotionVAE) -> None:
    still = torch.zeros(1, 3, 5, 32, 48)
    assert not vae.encode_motion(still).any()
    assert not vae.decode_motion(vae.encode_motion(still)).any()


def test_the_fit_gives_the_same_basis_again(vae: MotionVAE, source: MotionScenes) -> None:
    video = source.batch(torch.arange(6))["video"]
    bases = []
    for _ in range(2):
        fit_linear_start(vae.vae, [(video, 1.0)])
        bases.append(vae.vae.group_basis.clone())
    assert torch.equal(bases[0], bases[1])


@pytest.mark.parametrize("trained", [True, False])
def test_the_trajectory_encoder_learns_through_the_frozen_encoder_unless_frozen(
    vae: MotionVAE, source: MotionScenes, trained: bool
) -> None:
    objective = MotionVAEObjective(vae, source, VAELossSettings(train_trajectory_encoder=trained))
    objective.loss(objective.batch(torch.arange(2)), Draws(0, 0, range(2)))["loss"].backward()
    gradient = vae.trajectory_encoder.net.conv_out.weight.grad
    assert (gradient is not None and bool(gradient.any())) == trained
    assert vae.vae.decoder.conv_out.weight.grad is not None
    assert vae.vae.first_basis.grad is None and vae.vae.group_basis.grad is None


def test_the_decoder_learns_in_twenty_steps_and_the_basis_stays(
    vae: MotionVAE, source: MotionScenes, tmp_path: Path
) -> None:
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    objective = MotionVAEObjective(vae, source, VAELossSettings(latent_noise=0.1))
    history = train(objective, SETTINGS, seed=0, work=tmp_path).history
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    moved = {key for key, value in vae.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.split(".")[0] for key in moved} == {"vae", "trajectory_decoder", "trajectory_encoder"}
    assert not moved & {"vae.first_basis", "vae.group_basis"}


def test_video_costs_nothing_where_it_has_no_weight(vae: MotionVAE, source: MotionScenes) -> None:
    batch = source.batch(torch.arange(2))
    logs = {}
    for weight in (0.0, 1.0):
        objective = MotionVAEObjective(vae, source, VAELossSettings(video_weight=weight, kl_weight=0.0))
        found = objective.loss(batch, Draws(0, 0, range(2)))
        logs[weight] = {key: value.detach() for key, value in found.items()}
    assert float(logs[0.0]["video"]) == 0
    assert float(logs[0.0]["loss"]) == float(logs[0.0]["trajectory"])
    expected = float(logs[1.0]["trajectory"] + logs[1.0]["video"])
    assert float(logs[1.0]["loss"]) == pytest.approx(expected)
    error = (vae.decode_video(vae.encode_video(batch["video"])) - batch["video"]).detach().abs().mean()
    assert float(logs[1.0]["video"]) == pytest.approx(float(error), rel=1e-4)


def test_the_published_reconstruction_is_the_sum_of_differences_of_a_sample(
    vae: MotionVAE, source: MotionScenes
) -> None:
    batch = source.batch(torch.arange(2))
    settings = VAELossSettings(reconstruction="published", video_weight=0.0, kl_weight=0.5)
    found = MotionVAEObjective(vae, source, settings).loss(batch, Draws(0, 0, range(2)))
    with torch.no_grad():
        posterior = vae.vae.encode(vae.trajectory_encoder(batch["motion"])).latent_dist
        motion = vae.trajectory_decoder(vae.vae.decode(posterior.mode()).sample)
        variance, mean = posterior.var, posterior.mean
        kl = 0.5 * (mean.square() + variance - 1 - variance.log()).sum() / 2
    assert float(found["trajectory"]) == pytest.approx(float((motion - batch["motion"]).abs().sum() / 2), rel=1e-4)
    assert float(found["kl"]) == pytest.approx(float(kl), rel=1e-4)
    assert float(found["loss"].detach()) == pytest.approx(
        float(found["trajectory"]) + 0.5 * float(found["kl"]), rel=1e-5
    )


@pytest.mark.parametrize("reconstruction", ["distance", "published"])
def test_the_loss_of_a_batch_is_the_mean_of_its_halves(
    vae: MotionVAE, source: MotionScenes, reconstruction: Literal["distance", "published"]
) -> None:
    settings = VAELossSettings(latent_noise=0.5, reconstruction=reconstruction)
    objective, indices = MotionVAEObjective(vae, source, settings), torch.tensor([0, 1, 2, 4])

    def loss(places: range) -> Tensor:
        return objective.loss(source.batch(indices[list(places)]), Draws(3, 5, places))["loss"].detach()

    halves = (loss(range(2)) + loss(range(2, 4))) / 2
    assert float(loss(range(4))) == pytest.approx(float(halves), rel=1e-5)


@pytest.mark.parametrize(("trained", "video"), [(True, 1.0), (False, 0.0)])
def test_every_trained_parameter_gets_a_gradient(
    vae: MotionVAE, source: MotionScenes, trained: bool, video: float
) -> None:
    objective = MotionVAEObjective(vae, source, VAELossSettings(train_trajectory_encoder=trained, video_weight=video))
    objective.loss(source.batch(torch.arange(2)), Draws(0, 0, range(2)))["loss"].backward()
    assert all(p.grad is not None for p in objective.module.parameters() if p.requires_grad)


def test_the_decoder_learns_at_its_own_rate(vae: MotionVAE, source: MotionScenes) -> None:
    objective = MotionVAEObjective(vae, source, VAELossSettings(decoder_rate=0.1))
    slower = {
        name.split(".")[0]
        for name, _ in objective.module.named_parameters()
        if any(name.startswith(prefix) and factor == 0.1 for prefix, factor in objective.learning_rates.items())
    }
    assert slower == {"decoder", "post_quant_conv"}


def test_a_training_that_makes_the_codec_worse_is_not_kept(
    vae: MotionVAE, source: MotionScenes, tmp_path: Path
) -> None:
    wild = SETTINGS.model_copy(update={"learning_rate": 0.1, "steps": 4, "clip_norm": 100.0})
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    objective = MotionVAEObjective(vae, source, VAELossSettings())
    held_out = source.batch(torch.arange(3))
    _, errors = train_or_keep(objective, wild, held_out, seed=0, work=tmp_path)
    assert errors["trained_error_m"] > errors["start_error_m"]
    assert errors["kept_trained"] == 0
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())


def test_trained_weights_are_kept_where_they_beat_the_start_on_scenes_that_were_held_out(
    vae: MotionVAE, source: MotionScenes, tmp_path: Path
) -> None:
    batch = source.batch(torch.arange(6))
    bias = vae.trajectory_decoder.net.conv_out.bias
    assert bias is not None
    bias.data.fill_(0.05)
    objective = MotionVAEObjective(vae, source, VAELossSettings(train_trajectory_encoder=False, video_weight=0.0))
    result, errors = train_or_keep(objective, SETTINGS, batch, seed=0, work=tmp_path)
    assert errors["trained_error_m"] < errors["start_error_m"]
    assert errors["kept_trained"] == 1
    assert codec_error(vae, batch) == pytest.approx(errors["trained_error_m"])
    trained = {name for name, parameter in objective.module.named_parameters() if parameter.requires_grad}
    assert trained <= result.ema.keys()
    assert all(torch.equal(objective.module.state_dict()[key], value) for key, value in result.ema.items())
