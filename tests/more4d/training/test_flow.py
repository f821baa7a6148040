import dataclasses
from collections.abc import Sequence

import pytest
import torch
from more4d.models.bundle import Models
from more4d.models.flow_matching import Prediction
from more4d.models.vae import MotionVAE, MotionVAEConfig
from more4d.training.draws import Draws
from more4d.training.flow import (
    Conditions,
    FlowObjective,
    FlowSettings,
    Kept,
    empty_text,
    keep,
    require_prediction,
    weighted_means,
)
from scipy.special import logit
from scipy.stats import kstest, norm
from torch import Tensor, nn

SHAPE = (4, 16, 2, 2, 2)


class Latents:
    """Four latents with a text and an image each."""

    size = 4
    ids = ("a", "b", "c", "d")

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """All of them, whatever is asked for."""
        clean = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
        return {"clean": clean, "logvar": 2 * clean, "text": torch.ones(4, 3, 8), "image": torch.ones(4, 2, 8)}


class Watched(FlowObjective):
    """Predicts the truth plus an error, and remembers what it was given."""

    def __init__(self, vae: MotionVAE, settings: FlowSettings, error: float = 0.0) -> None:
        def conditions(batch: dict[str, Tensor]) -> Conditions:
            return Conditions(batch["text"], batch["image"])

        super().__init__(nn.Linear(1, 1), nn.Linear(1, 1), vae, Latents(), conditions, settings)
        self.error, self.given, self.kept, self.noisy = error, [], [], []
        self.sample = torch.zeros(())
        self.half = True

    def clean(self, batch: dict[str, Tensor]) -> Tensor:
        """The latent."""
        return batch["clean"]

    def log_variance(self, batch: dict[str, Tensor]) -> Tensor:
        """That of the latent."""
        return batch["logvar"]

    def predict(self, batch: dict[str, Tensor], noisy: Tensor, sigmas: Tensor, given: Conditions, kept: Kept) -> Tensor:
        """The truth, plus the error."""
        self.given.append(given)
        self.kept.append(kept)
        self.noisy.append((noisy, sigmas))
        clean = batch["clean"]
        sigma = sigmas.reshape(-1, 1, 1, 1, 1)
        right = clean if self.settings.prediction == "sample" else (noisy - clean) / sigma
        return right + self.error

    def decoded_error(self, sample: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """A constant; what was to be decoded is remembered."""
        self.sample, self.half = sample, torch.is_autocast_enabled("cpu")
        return torch.full((len(sample),), 3.0)


def draws(seed: int = 0, places: Sequence[int] = range(4)) -> Draws:
    """The streams of the first step."""
    return Draws(seed, 0, places)


def losses(objective: FlowObjective, seed: int = 0) -> dict[str, Tensor]:
    """The objective's losses on its four latents."""
    return objective.loss(objective.batch(torch.arange(4)), draws(seed))


@pytest.mark.parametrize("prediction", ["sample", "velocity"])
def test_the_truth_costs_nothing_and_an_error_its_square(models: Models, prediction: Prediction) -> None:
    settings = FlowSettings(prediction=prediction)
    assert float(losses(Watched(models.vae, settings))["loss"]) == pytest.approx(0, abs=1e-6)
    assert float(losses(Watched(models.vae, settings, error=0.5))["loss"]) == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("prediction", ["sample", "velocity"])
def test_what_is_decoded_is_the_clean_sample(models: Models, prediction: Prediction) -> None:
    objective = Watched(models.vae, FlowSettings(prediction=prediction, latent_weight=0.5, decoded_weight=2.0))
    found = losses(objective)
    assert float(found["loss"]) == pytest.approx(6.0, abs=1e-5)
    assert float(found["decoded"]) == 3
    assert torch.allclose(objective.sample, objective.batch(torch.arange(4))["clean"], atol=1e-4)


def test_the_sample_is_decoded_in_single_precision(models: Models) -> None:
    objective = Watched(models.vae, FlowSettings(decoded_weight=1.0))
    with torch.autocast("cpu", torch.bfloat16):
        losses(objective)
    assert not objective.half
    assert objective.sample.dtype == torch.float32


def test_cells_with_a_signal_weigh_more(models: Models) -> None:
    plain, weighted = (Watched(models.vae, FlowSettings(prediction="sample", signal_weight=w), 0.5) for w in (0.0, 2.0))
    clean = plain.batch(torch.arange(4))["clean"]
    strength = clean.square().mean(dim=1).sqrt().clamp(max=1).mean()
    ratio = losses(weighted)["loss"] / losses(plain)["loss"]
    assert float(ratio) == pytest.approx(float(1 + 2 * strength), rel=1e-4)


def test_text_image_control_and_reference_are_dropped_sample_by_sample(models: Models) -> None:
    settings = FlowSettings(drop_text=0.5, drop_image=0.25, drop_control=0.1, drop_reference=0.4)
    objective = Watched(models.vae, settings)
    for seed in range(200):
        losses(objective, seed)
    for found, share in (
        (torch.stack([g.text for g in objective.given]), 0.5),
        (torch.stack([g.image for g in objective.given]), 0.25),
        (torch.stack([k.control for k in objective.kept]), 0.1),
        (torch.stack([k.reference for k in objective.kept]), 0.4),
    ):
        rows = found.flatten(2)
        assert bool((rows == rows[..., :1]).all())
        assert float((rows[..., 0] == 0).float().mean()) == pytest.approx(share, abs=0.06)


def test_dropped_text_is_what_the_unguided_branch_reads(models: Models) -> None:
    objective = Watched(models.vae, FlowSettings(drop_text=0.5))
    nothing = torch.full((1, 3, 8), 7.0)
    objective.empty_text = nothing
    for seed in range(20):
        losses(objective, seed)
    texts = torch.cat([given.text for given in objective.given])
    dropped = (texts == nothing).all(dim=(1, 2))
    assert 0.2 < float(dropped.float().mean()) < 0.8
    assert not (texts == 0).all(dim=(1, 2)).any()


def test_the_checkpoint_says_what_dropped_text_becomes(models: Models) -> None:
    assert empty_text(models) is None
    generation = models.config.generation.model_copy(update={"unguided": "empty"})
    config = models.config.model_copy(update={"generation": generation})
    found = empty_text(dataclasses.replace(models, config=config))
    assert found is not None and torch.equal(found, models.text.encode([""]))


def test_the_draws_alone_decide(models: Models) -> None:
    settings = FlowSettings(drop_text=0.5)
    first, second = Watched(models.vae, settings, 0.1), Watched(models.vae, settings, 0.1)
    torch.manual_seed(1)
    losses(first, 5)
    torch.manual_seed(2)
    losses(second, 5)
    assert torch.equal(first.given[0].text, second.given[0].text)


def test_noise_levels_are_logit_normal_where_asked(models: Models) -> None:
    objective = Watched(models.vae, FlowSettings(timesteps="logit_normal", logit_mean=0.4, logit_std=0.7, shift=1.0))
    for seed in range(300):
        losses(objective, seed)
    levels = torch.cat([sigmas for _, sigmas in objective.noisy]).double().numpy()
    assert kstest(logit(levels), norm(0.4, 0.7).cdf).pvalue > 0.01
    assert kstest(levels, "uniform").pvalue < 0.01


def test_noise_levels_are_uniform_under_their_shift_otherwise(models: Models) -> None:
    objective = Watched(models.vae, FlowSettings(shift=3.0))
    for seed in range(300):
        losses(objective, seed)
    levels = torch.cat([sigmas for _, sigmas in objective.noisy]).double().numpy()
    assert kstest(levels / (3 - 2 * levels), "uniform").pvalue > 0.01


def test_an_error_too_large_to_count_is_left_out_and_reported(models: Models) -> None:
    for limit, error, ignored in ((1.0, 0.5, 0.0), (1.0, 2.0, 1.0)):
        found = losses(Watched(models.vae, FlowSettings(prediction="sample", max_error=limit), error))
        assert float(found["loss"]) == pytest.approx(0.25 * (1 - ignored), abs=1e-5)
        assert float(found["ignored"]) == ignored
    assert "ignored" not in losses(Watched(models.vae, FlowSettings()))


def test_what_is_no_number_is_not_ignored_as_too_large(models: Models) -> None:
    settings = FlowSettings(prediction="sample", max_error=1.0)
    assert torch.isnan(losses(Watched(models.vae, settings, float("nan")))["loss"])
    assert float(losses(Watched(models.vae, settings, float("inf")))["loss"]) == 0


def test_the_posterior_is_drawn_from_about_the_same_mean_and_noise(models: Models) -> None:
    mean, drawn = (Watched(models.vae, FlowSettings(sample_posterior=sampled)) for sampled in (False, True))
    losses(mean)
    losses(drawn)
    (noisy, sigmas), (sampled, same) = mean.noisy[0], drawn.noisy[0]
    assert torch.equal(sigmas, same)
    assert torch.equal(mean.given[0].text, drawn.given[0].text)
    batch = mean.batch(torch.arange(4))
    standard = (sampled - noisy) / ((1 - sigmas).reshape(-1, 1, 1, 1, 1) * (0.5 * batch["logvar"]).exp())
    assert float(standard.std()) == pytest.approx(1, abs=0.1)
    assert float(standard.mean()) == pytest.approx(0, abs=0.1)


def test_drawing_from_the_posterior_needs_log_variances(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Latents, "batch", lambda self, indices: {"clean": torch.zeros(SHAPE)})
    with pytest.raises(ValueError, match=r"sample_posterior .* hold no 'logvar': run the stage .* or set it to false"):
        Watched(models.vae, FlowSettings(sample_posterior=True))


def test_names_come_from_the_source_and_buckets_where_it_has_them(models: Models) -> None:
    objective = Watched(models.vae, FlowSettings())
    assert list(objective.ids) == ["a", "b", "c", "d"]
    assert list(objective.buckets) == [0, 0, 0, 0]


def test_validation_is_what_was_given(models: Models) -> None:
    objective = Watched(models.vae, FlowSettings())
    assert objective.validate(7) == {}
    objective.validation = lambda step: {"step": float(step)}
    assert objective.validate(7) == {"step": 7.0}


def test_a_weighted_mean_is_each_samples_own_and_one_with_hardly_a_value_counts_less() -> None:
    values = torch.ones(3, 10, 100) * torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    weights = torch.zeros(3, 10, 100)
    weights[0], weights[1, :2], weights[2, 0, 0] = 1, 1, 1
    assert weighted_means(values, weights).tolist() == pytest.approx([1.0, 2.0, 0.3])


def test_keep_is_shaped_to_multiply() -> None:
    assert keep(0.0, draws(places=range(3)), torch.zeros(3, 2, 2)).tolist() == [[[1]], [[1]], [[1]]]


def test_decoding_needs_a_linear_start_vae() -> None:
    small = {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    published = MotionVAE(MotionVAEConfig(vae=small))
    with pytest.raises(ValueError, match=r"decoded_weight=1.0 needs a linear-start VAE; set it to 0"):
        Watched(published, FlowSettings(decoded_weight=1.0))
    Watched(published, FlowSettings())


def test_training_and_sampling_must_agree_on_what_is_predicted() -> None:
    require_prediction(FlowSettings(prediction="sample"), "sample")
    with pytest.raises(ValueError, match=r"flow.prediction='velocity', but the checkpoint's sampler expects 'sample'"):
        require_prediction(FlowSettings(), "sample")
