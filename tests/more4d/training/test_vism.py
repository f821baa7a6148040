from pathlib import Path

import pytest
import torch
from more4d.data.sample import Sample
from more4d.models.bundle import Models, build_vism
from more4d.training.cache.direct import DirectViews
from more4d.training.draws import Draws
from more4d.training.flow import FlowSettings, Kept
from more4d.training.latents import cached_conditions
from more4d.training.loop import TrainSettings, train
from more4d.training.vism import ViSMObjective
from torch import Tensor

SETTINGS = TrainSettings(steps=20, batch_size=2, learning_rate=1e-2, warmup_steps=2, log_every=4, checkpoint_every=20)


@pytest.fixture
def source(models: Models, samples: list[Sample]) -> DirectViews:
    """Renders and truths of three scenes."""
    return DirectViews(models, samples, decoded=True)


def objective_of(models: Models, source: DirectViews, settings: FlowSettings) -> ViSMObjective:
    """The objective of a random ViSM."""
    torch.manual_seed(0)
    vism = build_vism(models.config)
    return ViSMObjective(vism, vism, models.vae, source, cached_conditions, settings)


def test_the_transformer_is_given_the_36_channels_and_control_drops_nothing(
    models: Models, source: DirectViews
) -> None:
    objective, seen = objective_of(models, source, FlowSettings()), []
    objective.transformer.register_forward_pre_hook(lambda _, given: seen.append(given))
    batch = source.batch(torch.arange(2))
    noisy = torch.randn_like(batch["video_latent"])
    control = torch.zeros(2, 1, 1, 1, 1)
    objective.predict(batch, noisy, torch.tensor([0.5, 1.0]), cached_conditions(batch), Kept(control, control))
    hidden, timestep, text, image = seen[0]
    assert torch.equal(hidden, torch.cat([noisy, batch["mask"], batch["render_latent"]], dim=1))
    assert timestep.tolist() == [500, 1000]
    assert torch.equal(text, batch["text"]) and torch.equal(image, batch["image_tokens"])


def test_the_decoded_error_is_that_of_the_holes_alone(models: Models, source: DirectViews) -> None:
    objective = objective_of(models, source, FlowSettings())
    batch = source.batch(torch.arange(2))
    decoded = models.vae.linear_decode_video(batch["video_latent"])
    holes = batch["holes"][:, None].expand_as(decoded)
    assert bool((batch["holes"].flatten(1).float().mean(dim=1) > 0.01).all())
    squares = (decoded - batch["video"]).square()
    expected = torch.stack([each[known].mean() for each, known in zip(squares, holes, strict=True)])
    assert torch.allclose(objective.decoded_error(batch["video_latent"], batch), expected, rtol=1e-4)
    elsewhere = batch | {"video": torch.where(holes, batch["video"], -batch["video"])}
    assert torch.allclose(objective.decoded_error(batch["video_latent"], elsewhere), expected, rtol=1e-4)


def test_it_learns_in_twenty_steps(models: Models, source: DirectViews, tmp_path: Path) -> None:
    objective = objective_of(models, source, FlowSettings(prediction="sample", decoded_weight=1.0))
    history = train(objective, SETTINGS, seed=0, work=tmp_path).history
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]


def test_every_trained_parameter_gets_a_gradient(models: Models, source: DirectViews) -> None:
    objective = objective_of(models, source, FlowSettings(decoded_weight=1.0))
    objective.loss(source.batch(torch.arange(2)), Draws(0, 0, range(2)))["loss"].backward()
    assert all(p.grad is not None for p in objective.module.parameters() if p.requires_grad)


def test_the_loss_of_a_batch_is_the_mean_of_its_halves(models: Models, source: DirectViews) -> None:
    objective = objective_of(models, source, FlowSettings(decoded_weight=1.0, drop_text=0.5, drop_image=0.5))
    indices = torch.tensor([0, 1, 2, 0])

    def loss(places: range) -> Tensor:
        return objective.loss(source.batch(indices[list(places)]), Draws(3, 5, places))["loss"].detach()

    halves = (loss(range(2)) + loss(range(2, 4))) / 2
    assert float(loss(range(4))) == pytest.approx(float(halves), rel=1e-6)
