"""The objective of 4D-ViSM: complete a render with holes into the video of that camera (paper section 4.3).

Suffixes: B batch, T frames, K latent frames, H height, W width.
"""

from torch import Tensor

from more4d.models.conditions import vism_input
from more4d.models.flow_matching import TIMESTEPS
from more4d.training.flow import Conditions, FlowObjective, Kept, weighted_means


class ViSMObjective(FlowObjective):
    """Batches hold video_latent and render_latent [B, 16, K, h, w] and mask [B, 4, K, h, w] (1 = known).

    With a decoded weight also video [B, 3, T, H, W] in [-1, 1] and holes [B, T, H, W]; to draw from the posterior,
    video_logvar [B, 16, K, h, w].
    """

    def clean(self, batch: dict[str, Tensor]) -> Tensor:
        """The true video's latent."""
        return batch["video_latent"]

    def log_variance(self, batch: dict[str, Tensor]) -> Tensor:
        """That of the true video's latent."""
        return batch["video_logvar"]

    def predict(self, batch: dict[str, Tensor], noisy: Tensor, sigmas: Tensor, given: Conditions, kept: Kept) -> Tensor:
        """The transformer on its 36 channels; the render is the task itself, so it is never dropped."""
        hidden = vism_input(noisy, batch["mask"], batch["render_latent"])
        return self.transformer(hidden, sigmas * TIMESTEPS, given.text, given.image)

    def decoded_error(self, sample: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Mean squared colour error [B] inside the holes."""
        error = (self.vae.linear_decode_video(sample) - batch["video"].float()).square().mean(dim=1)
        return weighted_means(error, batch["holes"].to(error))
