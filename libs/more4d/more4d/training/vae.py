"""The motion VAE: its linear start by principal components, and the objective that trains what comes on top.

Suffixes: B batch, T frames, H height, W width.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from more4d.models.vae import LinearStartWanVAE, MotionVAE, cell_vectors
from more4d.settings import Section
from more4d.training.draws import Draws
from more4d.training.flow import BatchSource, Bucketed, Named
from more4d.training.loop import TrainResult, TrainSettings, train
from more4d.training.objective import Objective
from more4d.training.strag import trajectory_distance


class VAELossSettings(Section):
    """What a reconstruction error costs."""

    reconstruction: Literal["distance", "published"] = "distance"
    """What a wrong motion costs: its distance in metres where points are visible, or the sum of all absolute differences in
    eq. 1's units, KL summed likewise."""
    kl_weight: float = Field(default=1e-6, ge=0)
    video_weight: float = Field(default=1.0, ge=0)
    """Weight of the reconstruction of plain video, which 4D-ViSM needs of the same VAE."""
    train_trajectory_encoder: bool = True
    """The published encoder never received a gradient; frozen, it keeps latents that a STraG was trained on."""
    decoder_rate: float = Field(default=1.0, gt=0)
    """Learning rate of the VAE's decoder as a multiple of the codec's; published: 0.1."""
    latent_noise: float = Field(default=0.0, ge=0)
    """Largest standard deviation, in the VAE's own units, of noise added to motion latents: each sample draws its share,
    and the decoder learns to quiet what a generator leaves."""


@torch.no_grad()
def fit_linear_start(vae: LinearStartWanVAE, videos: Iterable[tuple[Tensor, float]]) -> None:
    """Set both bases to the leading principal directions of weighted videos [B, 3, T, H, W]; the mean is not removed.

    Each kind of video (motion map, picture, depth) is scaled to the same energy times its weight, so that none crowds
    the others out of the 16 channels; a zero video stays a zero latent.
    """
    covariances = [torch.zeros(192, 192, dtype=torch.float64), torch.zeros(768, 768, dtype=torch.float64)]
    for video, weight in videos:
        for covariance, frames in zip(covariances, (video[:, :, :1], video[:, :, 1:]), strict=True):
            vectors = cell_vectors(frames).flatten(0, 3).double()
            gram = vectors.T @ vectors
            covariance += weight * gram / gram.trace().clamp_min(1e-12)
    for basis, covariance in zip((vae.first_basis, vae.group_basis), covariances, strict=True):
        directions = torch.linalg.eigh(covariance).eigenvectors[:, -vae.z_dim :].flip(1).T
        signs = directions.sum(dim=1, keepdim=True).sign()
        basis.copy_((directions * torch.where(signs == 0, torch.ones_like(signs), signs)).float())


class MotionVAEObjective(Objective):
    """Reconstruction of trajectories and videos plus KL; the encoder behind the trajectory encoder stays frozen.

    Batches hold motion [B, 3, T, H, W], visible [B, T, H, W], unit [B, 3, H, W] and video [B, 3, T, H, W] in [-1, 1].
    """

    def __init__(self, vae: MotionVAE, source: BatchSource, settings: VAELossSettings) -> None:
        self.vae, self.source, self.size, self.settings = vae, source, source.size, settings
        vae.requires_grad_(False)
        self.module = nn.ModuleDict(
            {
                "trajectory_encoder": vae.trajectory_encoder,
                "decoder": vae.vae.decoder,
                "post_quant_conv": vae.vae.post_quant_conv,
                "trajectory_decoder": vae.trajectory_decoder,
            }
        ).requires_grad_(True)
        vae.trajectory_encoder.requires_grad_(settings.train_trajectory_encoder)

    @property
    def ids(self) -> Sequence[str]:
        """The source's names of its samples, or their numbers."""
        return self.source.ids if isinstance(self.source, Named) else super().ids

    @property
    def buckets(self) -> Sequence[int]:
        """The source's buckets; one where it has none."""
        return self.source.buckets if isinstance(self.source, Bucketed) else super().buckets

    @property
    def learning_rates(self) -> Mapping[str, float]:
        """The VAE's decoder learns at a rate of its own."""
        return dict.fromkeys(("decoder.", "post_quant_conv."), self.settings.decoder_rate)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The source's samples at `indices`."""
        return self.source.batch(indices)

    def loss(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """Trajectory error, video error and KL."""
        settings = self.settings
        posterior = self.vae.vae.encode(self.vae.trajectory_encoder(batch["motion"])).latent_dist
        latent = posterior.mode()
        noise = draws.normal(latent)
        spread = draws.uniform(latent) * settings.latent_noise
        motion = self.vae.trajectory_decoder(self.vae.vae.decode(latent + spread * noise).sample)
        logs = self._reconstruction(motion, batch, posterior.kl())
        logs["video"] = self._video_error(batch) if settings.video_weight else latent.new_zeros(())
        loss = logs["trajectory"] + settings.kl_weight * logs["kl"] + settings.video_weight * logs["video"]
        return {"loss": loss} | {k: v.detach() for k, v in logs.items()}

    def _reconstruction(self, motion: Tensor, batch: dict[str, Tensor], kl: Tensor) -> dict[str, Tensor]:
        """Each sample's error and KL [B, columns], averaged over samples."""
        if self.settings.reconstruction == "distance":
            return {"trajectory": trajectory_distance(motion, batch).mean(), "kl": kl.mean()}
        error = (motion.float() - batch["motion"].float()).abs()
        return {"trajectory": error.flatten(1).sum(dim=1).mean(), "kl": kl.flatten(1).sum(dim=1).mean()}

    def _video_error(self, batch: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            latent = self.vae.encode_video(batch["video"])
        return functional.l1_loss(self.vae.decode_video(latent), batch["video"])


def train_or_keep(
    objective: MotionVAEObjective, settings: TrainSettings, held_out: Mapping[str, Tensor], *, seed: int, work: Path
) -> tuple[TrainResult, dict[str, float]]:
    """The training's result and the held-out trajectory errors in metres; the VAE ends with the better weights.

    A short training can end above where it began, at principal components or at a base; the weights then stay.
    """
    before = {key: value.detach().clone() for key, value in objective.module.state_dict().items()}
    start = codec_error(objective.vae, held_out)
    result = train(objective, settings, seed=seed, work=work)
    result.load_into(objective.module)
    trained = codec_error(objective.vae, held_out)
    if trained >= start:
        objective.module.load_state_dict(before)
    return result, {"start_error_m": start, "trained_error_m": trained, "kept_trained": float(trained < start)}


@torch.no_grad()
def codec_error(vae: MotionVAE, held_out: Mapping[str, Tensor]) -> float:
    """Mean trajectory distance in metres after encoding and decoding a held-out batch, 16 samples at a time."""
    distances = [
        trajectory_distance(vae.decode_motion(vae.encode_motion(part["motion"])), part) for part in _parts(held_out, 16)
    ]
    return float(torch.cat(distances).mean())


def _parts(batch: Mapping[str, Tensor], size: int) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(batch["motion"]), size):
        yield {key: value[start : start + size] for key, value in batch.items()}
