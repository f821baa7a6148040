"""Flow matching as an objective (paper eq. 3), shared by 4D-STraG and 4D-ViSM: noise, dropouts, latent error.

Suffixes: B batch, K latent frames, M text tokens, I image tokens, D width; h = H/8, w = W/8.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from more4d.models.bundle import Models
from more4d.models.flow_matching import Prediction, add_noise, sample_sigmas, to_sample
from more4d.models.vae import LinearStartWanVAE, MotionVAE
from more4d.settings import Section
from more4d.training.loop import Objective


class FlowSettings(Section):
    """How noise is drawn and what the network's error costs."""

    shift: float = Field(default=5.0, gt=0)
    prediction: Prediction = "velocity"
    latent_weight: float = Field(default=1.0, ge=0)
    """Weight of the squared error of the prediction in latent space (eq. 3)."""
    signal_weight: float = Field(default=0.0, ge=0)
    """Extra weight of cells whose clean latent is far from zero: in motion latents, the few that move."""
    decoded_weight: float = Field(default=0.0, ge=0)
    """Weight of the error of the decoded sample; only a linear-start VAE decodes fast enough to train with it."""
    drop_text: float = Field(default=0.1, ge=0, lt=1)
    drop_image: float = Field(default=0.02, ge=0, lt=1)
    drop_control: float = Field(default=0.02, ge=0, lt=1)


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


@dataclass(frozen=True)
class Conditions:
    """Text [B, M, D] and image tokens [B, I, D] of a batch."""

    text: Tensor
    image: Tensor


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
    ) -> None:
        if settings.decoded_weight and not isinstance(vae.vae, LinearStartWanVAE):
            raise ValueError(
                f"decoded_weight={settings.decoded_weight} needs a linear-start VAE; set it to 0 for this one"
            )
        self.module, self.transformer, self.vae = module, transformer, vae
        self.source, self.size = source, source.size
        self.conditions, self.settings, self.empty_text = conditions, settings, empty_text

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The source's samples at `indices`."""
        return self.source.batch(indices)

    @abstractmethod
    def clean(self, batch: dict[str, Tensor]) -> Tensor:
        """The latent [B, 16, K, h, w] to generate."""

    @abstractmethod
    def predict(
        self, batch: dict[str, Tensor], noisy: Tensor, sigmas: Tensor, given: Conditions, control: Tensor
    ) -> Tensor:
        """The transformer's output; `control` [B, 1, 1, 1, 1] is 0 where the latents beside the noise are dropped."""

    @abstractmethod
    def decoded_error(self, sample: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Error of the generated latent after decoding: a scalar."""

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Weighted sum of latent and decoded error; both are logged."""
        settings, clean = self.settings, self.clean(batch)
        sigmas = sample_sigmas(len(clean), settings.shift, generator).to(clean)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        noisy = add_noise(clean, noise, sigmas)
        given = self._dropped(self.conditions(batch), generator)
        control = keep(len(clean), settings.drop_control, generator, clean)
        output = self.predict(batch, noisy, sigmas, given, control).float()
        target = clean if settings.prediction == "sample" else noise - clean
        logs = {"latent": self._latent_error(output, target, clean)}
        loss = settings.latent_weight * logs["latent"]
        if settings.decoded_weight:
            sample = to_sample(output, noisy, sigmas, settings.prediction)
            # Half precision would blur the motion map by more than most points move.
            with torch.autocast(sample.device.type, enabled=False):
                logs["decoded"] = self.decoded_error(sample, batch)
            loss = loss + settings.decoded_weight * logs["decoded"]
        return {"loss": loss} | {k: v.detach() for k, v in logs.items()}

    def _latent_error(self, output: Tensor, target: Tensor, clean: Tensor) -> Tensor:
        weight = 1 + self.settings.signal_weight * clean.square().mean(dim=1, keepdim=True).sqrt().clamp(max=1)
        return (weight * (output - target).square()).mean()

    def _dropped(self, given: Conditions, generator: torch.Generator) -> Conditions:
        text = keep(len(given.text), self.settings.drop_text, generator, given.text)
        image = keep(len(given.image), self.settings.drop_image, generator, given.image)
        kept = given.text * text
        if self.empty_text is not None:
            kept = kept + self.empty_text.to(kept) * (1 - text)
        return Conditions(kept, given.image * image)


@torch.no_grad()
def empty_text(models: Models) -> Tensor | None:
    """What dropped text becomes: the embedding [1, M, D] of nothing, None for zeros; the checkpoint says which."""
    return models.text.encode([""]) if models.config.generation.unguided == "empty" else None


def keep(count: int, dropped: float, generator: torch.Generator, like: Tensor) -> Tensor:
    """One factor a sample, 0 with probability `dropped` and 1 otherwise, shaped to multiply `like` [B, ...]."""
    kept = torch.rand(count, generator=generator) >= dropped
    return kept.to(like).reshape(-1, *[1] * (like.ndim - 1))
