from pathlib import Path

import pytest
import torch
from more4d.data.sample import Sample
from more4d.models.architectures import Architecture
from more4d.models.bundle import Models, build, build_strag
from more4d.models.conditions import Reference
from more4d.models.conversion import load_published, to_ours, to_published
from more4d.models.motion_encoder import MaskedAutoencoder
from more4d.models.text import build_tokenizer
from more4d.training.cache.direct import DirectLatents
from more4d.training.draws import Draws
from more4d.training.flow import Conditions, FlowSettings, Kept
from more4d.training.latents import cached_conditions, motion_batch
from more4d.training.loop import TrainSettings, train
from more4d.training.strag import STraGObjective, trajectory_distance
from more4d_kernels import denormalize_motion
from torch import Tensor

SETTINGS = TrainSettings(steps=20, batch_size=2, learning_rate=1e-2, warmup_steps=2, log_every=4, checkpoint_every=20)


def test_the_distance_is_eq_7_in_metres(samples: list[Sample]) -> None:
    batch = motion_batch(samples[:1])
    predicted = batch["motion"] * 0.5 + 0.1
    points0, intrinsics = torch.from_numpy(samples[0].points[:1]), torch.from_numpy(samples[0].intrinsics)[None]
    metres = denormalize_motion(predicted, points0, intrinsics, image_size=samples[0].depth.shape)[0]
    error = (metres - torch.from_numpy(samples[0].points)).norm(dim=-1)
    expected = error[torch.from_numpy(samples[0].visibility)].mean()
    assert float(trajectory_distance(predicted, batch, softness=1e-6)) == pytest.approx(float(expected), rel=1e-3)


def test_only_visible_points_count(samples: list[Sample]) -> None:
    batch = motion_batch(samples[:1])
    hidden = ~batch["visible"][:, None]
    assert hidden.any()
    assert float(trajectory_distance(batch["motion"] + 9 * hidden, batch)) == pytest.approx(0, abs=1e-6)
    nothing = batch | {"visible": torch.zeros_like(batch["visible"])}
    assert float(trajectory_distance(batch["motion"] + 1, nothing)) == 0


def test_its_gradient_is_finite_at_the_truth(samples: list[Sample]) -> None:
    batch = motion_batch(samples[:1])
    motion = batch["motion"].clone().requires_grad_()
    trajectory_distance(motion, batch).backward()
    assert motion.grad is not None and bool(motion.grad.isfinite().all())


@pytest.fixture
def source(models: Models, samples: list[Sample]) -> DirectLatents:
    """Three scenes as the latent cache would give them."""
    return DirectLatents(models, samples, decoded=True)


def test_the_transformer_is_given_the_64_channels_and_control_drops_image_and_depth(
    models: Models, source: DirectLatents, monkeypatch: pytest.MonkeyPatch
) -> None:
    strag, seen = build_strag(models.config), []
    strag.register_forward_pre_hook(lambda _, given: seen.append(given))
    objective = STraGObjective(strag, strag, models.vae, source, cached_conditions, FlowSettings())
    batch = source.batch(torch.arange(2))
    noisy, given = torch.randn_like(batch["motion_latent"]), cached_conditions(batch)
    control = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1)
    objective.predict(batch, noisy, torch.tensor([0.5, 1.0]), given, Kept(control, torch.ones_like(control)))
    hidden, timestep, text, image, features = seen[0]
    assert torch.equal(hidden[:, :16], noisy)
    assert not hidden[0, 16:].any()
    assert torch.equal(hidden[1, 16:32], batch["image_latent"][1])
    assert torch.equal(hidden[1, 48:], batch["depth_latent"][1])
    assert timestep.tolist() == [500, 1000]
    assert (text is given.text, image is given.image) == (True, True)
    assert features is batch["motion_features"]


@pytest.mark.parametrize("decoded", [0.0, 1.0])
def test_it_learns_in_twenty_steps(models: Models, source: DirectLatents, tmp_path: Path, decoded: float) -> None:
    torch.manual_seed(0)
    strag = build_strag(models.config)
    settings = FlowSettings(prediction="sample", decoded_weight=decoded)
    objective = STraGObjective(strag, strag, models.vae, source, cached_conditions, settings)
    history = train(objective, SETTINGS, seed=0, work=tmp_path / "work").history
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    assert strag.blocks[0].motion1.gate.abs().max() > 0  # type: ignore[operator, union-attr]
    assert all(p.grad is None for p in models.vae.parameters())


def test_the_decoded_error_of_the_true_latent_is_the_codecs_own(models: Models, source: DirectLatents) -> None:
    def conditions(batch: dict[str, Tensor]) -> Conditions:
        raise AssertionError("not asked for")

    objective = STraGObjective(models.strag, models.strag, models.vae, source, conditions, FlowSettings())
    batch = source.batch(torch.arange(3))
    through = models.vae.linear_decode_motion(models.vae.encode_motion(batch["motion"]))
    expected = trajectory_distance(through, batch)
    assert torch.allclose(objective.decoded_error(batch["motion_latent"], batch), expected, rtol=1e-2)


@pytest.mark.parametrize("setting", ["zeros", "photo"])
def test_the_reference_of_training_is_the_checkpoints_own(
    models: Models, source: DirectLatents, setting: Reference
) -> None:
    taking = models.config.strag.model_copy(update={"reference_channels": 16})
    strag, seen = build_strag(models.config.model_copy(update={"strag": taking})), []
    strag.register_forward_pre_hook(lambda _, positional, named: seen.append(named["reference"]), with_kwargs=True)
    arguments = strag, strag, models.vae, source, cached_conditions, FlowSettings(drop_reference=0.0)
    batch = source.batch(torch.arange(2))
    STraGObjective(*arguments, reference=setting).loss(batch, Draws(0, 0, range(2)))
    assert torch.equal(seen[0], batch["image_latent"][:, :, 0] * (setting == "photo"))


@pytest.mark.parametrize(
    ("setting", "tokens"), [("none", "patch"), ("photo", "patch"), ("none", "first"), ("none", "none")]
)
def test_every_trained_parameter_gets_a_gradient(
    models: Models, source: DirectLatents, setting: Reference, tokens: str
) -> None:
    shape = models.config.strag.model_copy(update={"reference_channels": 16, "motion_tokens": tokens})
    strag = build_strag(models.config.model_copy(update={"strag": shape}))
    arguments = strag, strag, models.vae, source, cached_conditions, FlowSettings()
    objective = STraGObjective(*arguments, reference=setting)
    objective.loss(source.batch(torch.arange(2)), Draws(0, 0, range(2)))["loss"].backward()
    trained = {name for name, p in strag.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in strag.named_parameters() if p.grad is not None}
    frozen = {part for name, _ in strag.named_parameters() if name not in trained for part in name.split(".")}
    assert ("reference_embedding" in frozen) == (setting == "none")
    assert ("motion_adapter" in frozen) == (tokens != "patch")
    assert ("motion1" in frozen) == (tokens == "none")


@pytest.mark.parametrize("decoded", [0.0, 1.0])
def test_the_loss_of_a_batch_is_the_mean_of_its_halves(models: Models, source: DirectLatents, decoded: float) -> None:
    strag = build_strag(models.config)
    settings = FlowSettings(decoded_weight=decoded, drop_text=0.5, drop_control=0.5, signal_weight=1.0)
    objective = STraGObjective(strag, strag, models.vae, source, cached_conditions, settings)
    indices = torch.tensor([0, 1, 2, 0])

    def loss(places: range) -> Tensor:
        return objective.loss(source.batch(indices[list(places)]), Draws(3, 5, places))["loss"].detach()

    halves = (loss(range(2)) + loss(range(2, 4))) / 2
    assert float(loss(range(4))) == pytest.approx(float(halves), rel=1e-6)


def test_tokens_are_those_of_the_latent_and_of_the_reference(models: Models, source: DirectLatents) -> None:
    arguments = models.strag, models.strag, models.vae, source, cached_conditions, FlowSettings()
    expectations: dict[Reference, int] = {"none": 2 * 2 * 3, "photo": 3 * 2 * 3}
    for setting, expected in expectations.items():
        objective = STraGObjective(*arguments, reference=setting, flops=9)
        assert (objective.tokens, objective.flops) == (expected, 9)


def test_loaded_omnimae_weights_survive_construction_and_training(
    architecture: Architecture, samples: list[Sample], tmp_path: Path
) -> None:
    published = to_published("omnimae", MaskedAutoencoder(architecture.motion_encoder).state_dict())
    torch.save({"model": published}, tmp_path / "omnimae.torch")
    autoencoder = load_published(MaskedAutoencoder(architecture.motion_encoder), tmp_path / "omnimae.torch", "omnimae")
    built = build(architecture, build_tokenizer(["a patch moves"], 280))
    built.motion_encoder.load_state_dict(autoencoder.trunk.state_dict())
    strag = build_strag(architecture)
    source = DirectLatents(built, samples)
    objective = STraGObjective(strag, strag, built.vae, source, cached_conditions, FlowSettings())
    train(objective, SETTINGS.model_copy(update={"steps": 10}), seed=0, work=tmp_path)
    assert all(bool(block.motion1.gate.detach().any()) for block in strag.blocks)  # type: ignore[union-attr]
    kept = {f"trunk.{key}": value for key, value in built.motion_encoder.state_dict().items()}
    for key, value in to_ours("omnimae", published).items():
        if key.startswith("trunk."):
            assert torch.equal(kept.pop(key), value), key
    assert not kept
