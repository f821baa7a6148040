"""Flow matching as an objective (paper eq. 3), shared by 4D-STraG and 4D-ViSM: noise, dropouts, latent error.

Every loss is a mean over samples of each sample's own mean, so a batch may be cut among ranks and parts anywhere.
Suffixes: B batch, K latent frames, M text tokens, I image tokens, D width; h = H/8, w = W/8.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn

from more4d.models.bundle import Models
from more4d.models.flow_matching import Prediction, add_noise, logit_normal, shift_sigmas, to_sample
from more4d.models.vae import LinearStartWanVAE, MotionVAE
from more4d.settings import Section
from more4d.training.draws import Draws
from more4d.training.objective import Objective


class FlowSettings(Section):
    """How noise is drawn and what the network's error costs."""

    timesteps: Literal["uniform", "logit_normal"] = "uniform"
    """How noise levels are spread before `shift` moves them: evenly as published, or as Stable Diffusion 3's."""
    logit_mean: float = 0.0
    logit_std: float = Field(default=1.0, gt=0)
    shift: float = Field(default=5.0, gt=0)
    prediction: Prediction = "velocity"
    latent_weight: float = Field(default=1.0, ge=0)
    """Weight of the squared error of the prediction in latent space (eq. 3)."""
    max_error: float | None = Field(default=None, gt=0)
    """Largest error that counts: a value further off adds nothing to the loss. Published: 50."""
    signal_weight: float = Field(default=0.0, ge=0)
    """Extra weight of cells whose clean latent is far from zero: in motion latents, the few that move."""
    decoded_weight: float = Field(default=0.0, ge=0)
    """Weight of the error of the decoded sample; only a linear-start VAE decodes fast enough to train with it."""
    sample_posterior: bool = False
    """Train on a draw from the VAE's posterior, anew each time, instead of on its mean."""
    drop_text: float = Field(default=0.1, ge=0, lt=1)
    drop_image: float = Field(default=0.02, ge=0, lt=1)
    """Share of samples without the image's tokens (CLIP)."""
    drop_control: float = Field(default=0.02, ge=0, lt=1)
    """Share of samples without the latents beside the noise (image and depth)."""
    drop_reference: float = Field(default=0.02, ge=0, lt=1)
    """Share of samples whose reference latent is zero, where the network is given one."""


def require_prediction(settings: FlowSettings, sampled: Prediction) -> None:
    """Raises ValueError unless the network is trained to predict what the sampler will take its output for."""
    if settings.prediction != sampled:
        raise ValueError(
            f"flow.prediction={settings.prediction!r}, but the checkpoint's sampler expects {sampled!r}; set it to that"
        )


class BatchSource(Protocol):
    """Where batches come from; each objective says what they hold."""

    size: int

    def batch(self, indices: Tensor) -> dict[str, Tensor]: ...


@runtime_checkable
class Named(Protocol):
    """A source that knows its samples' names."""

    ids: Sequence[str]


@runtime_checkable
class Bucketed(Protocol):
    """A source whose samples differ in shape: equal numbers can be stacked."""

    buckets: Sequence[int]


@runtime_checkable
class Shows(Protocol):
    """A validation that makes videos."""

    def videos(self, step: int) -> Mapping[str, Path]: ...


@dataclass(frozen=True)
class Conditions:
    """Text [B, M, D] and image tokens [B, I, D] of a batch."""

    text: Tensor
    image: Tensor


@dataclass(frozen=True)
class Kept:
    """Factors [B, 1, 1, 1, 1], 0 where the latents beside the noise, or the reference, are dropped."""

    control: Tensor
    reference: Tensor


class FlowObjective(Objective):
    """Trains a transformer (and whatever else `module` holds) to undo noise in a latent.

    Dropped text becomes `empty_text` [1, M, D], or zeros without one: what the unguided branch of generation reads.
    """

    def __init__(
        self,
        module: nn.Module,
        transformer: nn.Module,
        vae: MotionVAE,
        source: BatchSource,
        conditions: Callable[[dict[str, Tensor]], Conditions],
        settings: FlowSettings,
        *,
        empty_text: Tensor | None = None,
        flops: int = 0,
        validation: Callable[[int], dict[str, float]] | None = None,
    ) -> None:
        """`flops` are a sample's, forward and backward (0: not known); `validation` is what `validate` calls.

        Raises ValueError where the settings ask for what is not there.
        """
        if settings.decoded_weight and not isinstance(vae.vae, LinearStartWanVAE):
            raise ValueError(
                f"decoded_weight={settings.decoded_weight} needs a linear-start VAE; set it to 0 for this one"
            )
        self.module, self.transformer, self.vae, self.frozen = module, transformer, vae, (vae,)
        self.source, self.size = source, source.size
        self.conditions, self.settings, self.empty_text = conditions, settings, empty_text
        self.validation, self._flops = validation, flops
        if settings.sample_posterior:
            self._require_log_variance()

    @property
    def ids(self) -> Sequence[str]:
        """The source's names of its samples, or their numbers."""
        return self.source.ids if isinstance(self.source, Named) else super().ids

    @property
    def buckets(self) -> Sequence[int]:
        """The source's buckets; one where it has none."""
        return self.source.buckets if isinstance(self.source, Bucketed) else super().buckets

    @cached_property
    def tokens(self) -> int:
        """Those of the first sample: of all, where they are of one size."""
        return prod(self._grid)

    @property
    def flops(self) -> int:
        """A sample's forward and backward, as given."""
        return self._flops

    @cached_property
    def _grid(self) -> tuple[int, ...]:
        """Frames, rows and columns of the first sample's tokens."""
        patches: tuple[int, ...] = self.transformer.config["patch_size"]  # type: ignore[index, assignment]
        return tuple(
            side // patch for side, patch in zip(self.clean(self._first_sample).shape[2:], patches, strict=True)
        )

    @cached_property
    def _first_sample(self) -> dict[str, Tensor]:
        return self.source.batch(torch.zeros(1, dtype=torch.long))

    def _require_log_variance(self) -> None:
        try:
            self.log_variance(self._first_sample)
        except KeyError as missing:
            raise ValueError(
                f"flow.sample_posterior draws from the VAE's posterior, but the samples hold no {missing}: "
                "run the stage that encodes them again, or set it to false"
            ) from missing

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The source's samples at `indices`."""
        return self.source.batch(indices)

    def validate(self, step: int) -> dict[str, float]:
        """What the validation that this objective was given finds."""
        return {} if self.validation is None else self.validation(step)

    def shown(self, step: int) -> Mapping[str, Path]:
        """What that validation shows."""
        return self.validation.videos(step) if isinstance(self.validation, Shows) else {}

    @abstractmethod
    def clean(self, batch: dict[str, Tensor]) -> Tensor:
        """The latent [B, 16, K, h, w] to generate: the posterior's mean."""

    @abstractmethod
    def log_variance(self, batch: dict[str, Tensor]) -> Tensor:
        """The posterior's log-variance [B, 16, K, h, w], in the units of `clean`."""

    @abstractmethod
    def predict(self, batch: dict[str, Tensor], noisy: Tensor, sigmas: Tensor, given: Conditions, kept: Kept) -> Tensor:
        """The transformer's output."""

    @abstractmethod
    def decoded_error(self, sample: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Error [B] of each generated latent after decoding."""

    def loss(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """Weighted sum of latent and decoded error; both are logged."""
        settings, mean = self.settings, self.clean(batch)
        # All of them, in this order, whatever is asked for: settings that differ in one draw differ in no other.
        sigmas = self._sigmas(mean, draws)
        noise = draws.normal(mean)
        given = self._dropped(self.conditions(batch), draws)
        kept = Kept(keep(settings.drop_control, draws, mean), keep(settings.drop_reference, draws, mean))
        clean = self._sampled(mean, batch, draws) if settings.sample_posterior else mean
        noisy = add_noise(clean, noise, sigmas)
        output = self.predict(batch, noisy, sigmas, given, kept).float()
        target = clean if settings.prediction == "sample" else noise - clean
        logs = self._latent_error(output, target, clean)
        loss = settings.latent_weight * logs["latent"]
        if settings.decoded_weight:
            sample = to_sample(output, noisy, sigmas, settings.prediction)
            # Half precision would blur the motion map by more than most points move.
            with torch.autocast(sample.device.type, enabled=False):
                logs["decoded"] = self.decoded_error(sample, batch).mean()
            loss = loss + settings.decoded_weight * logs["decoded"]
        return {"loss": loss} | {k: v.detach() for k, v in logs.items()}

    def _sigmas(self, clean: Tensor, draws: Draws) -> Tensor:
        """Noise levels [B]."""
        settings, one = self.settings, clean.new_zeros(len(clean), dtype=torch.float32)
        if settings.timesteps == "uniform":
            return shift_sigmas(draws.uniform(one), settings.shift)
        return shift_sigmas(logit_normal(draws.normal(one), settings.logit_mean, settings.logit_std), settings.shift)

    def _sampled(self, mean: Tensor, batch: dict[str, Tensor], draws: Draws) -> Tensor:
        return mean + (0.5 * self.log_variance(batch)).exp() * draws.normal(mean)

    def _latent_error(self, output: Tensor, target: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """The weighted squared error, and what share of the values was too far off to count where that is limited."""
        weight = 1 + self.settings.signal_weight * clean.square().mean(dim=1, keepdim=True).sqrt().clamp(max=1)
        error = output - target
        if self.settings.max_error is None:
            return {"latent": (weight * error.square()).mean()}
        # What is no number counts, so that it is seen.
        ignored = error.abs() > self.settings.max_error
        # Before it is squared: the gradient of an infinite square times 0 is no number.
        counted = torch.where(ignored, 0.0, error)
        return {"latent": (weight * counted.square()).mean(), "ignored": ignored.float().mean()}

    def _dropped(self, given: Conditions, draws: Draws) -> Conditions:
        text = keep(self.settings.drop_text, draws, given.text)
        image = keep(self.settings.drop_image, draws, given.image)
        kept = given.text * text
        if self.empty_text is not None:
            kept = kept + self.empty_text.to(kept) * (1 - text)
        return Conditions(kept, given.image * image)


@torch.no_grad()
def empty_text(models: Models) -> Tensor | None:
    """What dropped text becomes: the embedding [1, M, D] of nothing, None for zeros; the checkpoint says which."""
    return models.text.encode([""]) if models.config.generation.unguided == "empty" else None


def keep(dropped: float, draws: Draws, like: Tensor) -> Tensor:
    """One factor a sample, 0 with probability `dropped` and 1 otherwise, shaped to multiply `like` [B, ...]."""
    drawn = draws.uniform(like.new_zeros((len(like), *[1] * (like.ndim - 1)), dtype=torch.float32))
    return (drawn >= dropped).to(like)


def weighted_means(values: Tensor, weights: Tensor, least: float = 0.01) -> Tensor:
    """Each sample's mean [B] of `values` where `weights` say that they count, both [B, ...].

    Counted as at least the share `least` of the sample, so that one with hardly a value does not outweigh the others.
    """
    counted = weights.flatten(1).sum(dim=1).clamp_min(least * weights[0].numel())
    return (values * weights).flatten(1).sum(dim=1) / counted
