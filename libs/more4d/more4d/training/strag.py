"""The objective of 4D-STraG: motion latents by flow matching, optionally with the decoded trajectory's distance.

Suffixes: B batch, T frames, K latent frames, H height, W width, G motion patches, C motion width.
"""

from collections.abc import Callable
from math import prod

from torch import Tensor, nn

from more4d.models.conditions import Reference, reference_latent, strag_input
from more4d.models.flow_matching import TIMESTEPS
from more4d.models.vae import MotionVAE
from more4d.training.flow import BatchSource, Conditions, FlowObjective, FlowSettings, Kept, weighted_means


class STraGObjective(FlowObjective):
    """Batches hold motion_latent, image_latent, depth_latent [B, 16, K, h, w] and motion_features [B, G, C].

    `reference` says which latent is given as tokens: the checkpoint's own setting, as in generation. With a decoded weight
    batches also hold motion [B, 3, T, H, W] (eq. 1 units), visible [B, T, H, W] and unit [B, 3, H, W]; to draw from the
    posterior, motion_logvar [B, 16, K, h, w].
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
        reference: Reference = "none",
        empty_text: Tensor | None = None,
        flops: int = 0,
        validation: Callable[[int], dict[str, float]] | None = None,
    ) -> None:
        """Freezes what the loss cannot reach: see `unused_parameters`."""
        arguments = module, transformer, vae, source, conditions, settings
        super().__init__(*arguments, empty_text=empty_text, flops=flops, validation=validation)
        self.reference: Reference = reference
        for parameter in unused_parameters(transformer, reference).values():
            parameter.requires_grad_(False)

    @property
    def tokens(self) -> int:  # type: ignore[override]
        """Those of the latent, and of the reference before them."""
        return super().tokens + (0 if self.reference == "none" else prod(self._grid[1:]))

    def clean(self, batch: dict[str, Tensor]) -> Tensor:
        """The motion latent."""
        return batch["motion_latent"]

    def log_variance(self, batch: dict[str, Tensor]) -> Tensor:
        """That of the motion latent."""
        return batch["motion_logvar"]

    def predict(self, batch: dict[str, Tensor], noisy: Tensor, sigmas: Tensor, given: Conditions, kept: Kept) -> Tensor:
        """The transformer on its 64 channels."""
        hidden = strag_input(noisy, batch["image_latent"] * kept.control, batch["depth_latent"] * kept.control)
        arguments = hidden, sigmas * TIMESTEPS, given.text, given.image, batch["motion_features"]
        reference = reference_latent(batch["image_latent"] * kept.reference, self.reference)
        return self.transformer(*arguments) if reference is None else self.transformer(*arguments, reference=reference)

    def decoded_error(self, sample: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Mean distance [B] between generated and true trajectories."""
        return trajectory_distance(self.vae.linear_decode_motion(sample), batch)


def unused_parameters(transformer: nn.Module, reference: Reference) -> dict[str, nn.Parameter]:
    """Parameters by name that no loss of this transformer reaches: of a reference that is never given, of motion features
    that are not read.

    Left trainable they never get a gradient, which processes that train together wait for.
    """
    tokens = transformer.config["motion_tokens"]  # type: ignore[index]
    unused = {"reference_embedding"} if reference == "none" else set()
    unused |= {"motion_adapter"} if tokens != "patch" else set()
    unused |= {"motion1", "motion2"} if tokens == "none" else set()
    return {name: p for name, p in transformer.named_parameters() if not unused.isdisjoint(name.split("."))}


def trajectory_distance(motion: Tensor, batch: dict[str, Tensor], softness: float = 3e-3) -> Tensor:
    """Mean distance [B] in metres between predicted and true motion [B, 3, T, H, W] over visible points: eq. 7.

    The distance, not its square: its minimiser is a median, so points that mostly stay do stay. Below `softness`
    metres it turns into a square, or its gradient would jump at zero. `unit` [B, 3, H, W] is metres per unit.
    """
    error = (motion.float() - batch["motion"].float()) * batch["unit"].float()[:, :, None]
    distance = (error.square().sum(dim=1) + softness**2).sqrt() - softness
    return weighted_means(distance, batch["visible"].to(distance))
