"""4D-ViSM as a pipeline: a render with holes and a sentence to the video that it stands for (paper section 4.4).

Suffixes: B batch, T frames, K latent frames, H height, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from more4d.models.bundle import Models
from more4d.models.conditions import fold_mask, render_with_holes, to_unit_range, vism_input
from more4d.models.flow_matching import flow_scheduler
from more4d.models.image_encoder import ImageEncoder
from more4d.models.text import TextEncoder
from more4d.models.vae import MotionVAE
from more4d.models.vism import ViSMTransformer
from more4d.pipelines.flow import FlowPipeline, Generators, StepCallback, Walk
from more4d.pipelines.inputs import Array, Picture, masks, pictures, require_fit, require_size, videos

ViewOutput = Literal["uint8", "np", "pt", "pil", "latent"]


@dataclass
class ViewPipelineOutput(BaseOutput):
    """What a call made."""

    frames: NDArray[Any] | Tensor | list[list[Image.Image]]
    """"np" [B, T, H, W, 3] in 0..1, "pt" [B, T, 3, H, W] in 0..1, "uint8" an array [B, T, H, W, 3], "pil" lists of
    frames, "latent" [B, 16, K, h, w]."""


class ViewPipeline(FlowPipeline):
    """Rendered video, mask and text to a completed video; the encoders may be left out where embeddings are given.

    `ViewPipeline.from_pretrained(folder)` loads what `save_pretrained` wrote; `DiffusionPipeline` does not know this
    class.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->transformer->vae"
    _optional_components = ["tokenizer", "text_encoder", "image_encoder"]

    def __init__(
        self,
        vae: MotionVAE,
        transformer: ViSMTransformer,
        scheduler: SchedulerMixin,
        tokenizer: PreTrainedTokenizerFast | None = None,
        text_encoder: TextEncoder | None = None,
        image_encoder: ImageEncoder | None = None,
        generation: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._set_up(
            generation, vae=vae, transformer=transformer, scheduler=scheduler, tokenizer=tokenizer,
            text_encoder=text_encoder, image_encoder=image_encoder,
        )  # fmt: skip

    @classmethod
    def from_models(cls, models: Models) -> Self:
        """A pipeline of a checkpoint's networks themselves; nothing is copied."""
        return cls(
            vae=models.view_vae, transformer=models.vism, scheduler=flow_scheduler(models.config.generation.shift),
            tokenizer=models.text.tokenizer, text_encoder=models.text, image_encoder=models.image_encoder,
            generation=models.config.generation.model_dump(),
        )  # fmt: skip

    @torch.no_grad()
    def __call__(
        self,
        video: Array | Sequence[Image.Image],
        mask: Array,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        *,
        image: Picture | Sequence[Image.Image] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        image_embeds: Tensor | None = None,
        output_type: ViewOutput = "np",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ViewPipelineOutput | tuple[Any, ...]:
        """The video that a render stands for; known pixels are generated too: keep the render's own there.

        video: see `videos`; 4n + 1 frames of the size that is generated (the checkpoint's own unless height and width
        are given). mask [T, H, W] or [B, T, H, W] is true where the render is known. image is the scene's photo, the
        render's first frame where it is not given. latents [16, K, h, w] (one draw for the whole batch) or
        [B, 16, K, h, w] replace the generator's. Raises ValueError naming what is missing or does not fit.
        """
        size = self._picture_size(height, width)
        steps, guidance = self._settings(num_inference_steps, guidance_scale, output_type, get_args(ViewOutput))
        self._check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        render = videos(video)
        require_size(render.shape[2], *size)
        require_fit("video", render, *size)
        known = masks(mask, render)
        text, unguided = self._embeddings(
            prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, render.shape[0], guided=guidance > 1
        )
        device, dtype = self._execution_device, self.transformer.dtype
        render, known = render.to(device), known.to(device)
        latent = self.vae.encode_video(render_with_holes(to_unit_range(render), known)).to(dtype)
        if image_embeds is None:
            image_embeds = self.encode_image(render[:, :, 0] if image is None else pictures(image))
        tokens = image_embeds.to(device, dtype).expand(render.shape[0], -1, -1)
        folded = fold_mask(known).to(dtype)
        walk = Walk(
            latents=self._noise(latent.shape, generator, latents),
            prompt_embeds=text,
            negative_prompt_embeds=unguided,
            steps=steps,
            guidance=guidance,
            callback=callback_on_step_end,
            callback_inputs=callback_on_step_end_tensor_inputs,
        )
        found = self._denoise(
            walk, lambda z, t, words: self.transformer(vism_input(z, folded, latent), t, words, tokens)
        )
        frames = found if output_type == "latent" else self._decode(found, output_type)
        self.maybe_free_model_hooks()
        return ViewPipelineOutput(frames) if return_dict else (frames,)

    def _decode(self, latents: Tensor, output_type: ViewOutput) -> NDArray[Any] | Tensor | list[list[Image.Image]]:
        video = self.vae.decode_video(latents).float()
        unit = ((video + 1) / 2).clamp(0, 1)
        if output_type == "pt":
            return unit.transpose(1, 2)
        if output_type == "np":
            return unit.permute(0, 2, 3, 4, 1).cpu().numpy()
        pixels = ((video + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 4, 1).cpu().numpy()
        return pixels if output_type == "uint8" else [[Image.fromarray(f) for f in clip] for clip in pixels]
