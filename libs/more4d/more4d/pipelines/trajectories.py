"""4D-STraG as a pipeline: an image, its depth and a sentence to a trajectory of every pixel (paper section 4.4).

Suffixes: B batch, T frames, K latent frames, H height, W width, G motion tokens, C motion width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from diffusers.hooks.group_offloading import _is_group_offload_enabled
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from more4d.geometry import unproject
from more4d.models.bundle import Models
from more4d.models.conditions import (
    clip_picture,
    depth_latent,
    image_latent,
    reference_latent,
    strag_input,
    to_unit_range,
)
from more4d.models.depth import DepthNetwork
from more4d.models.flow_matching import flow_scheduler
from more4d.models.image_encoder import ImageEncoder
from more4d.models.motion_encoder import MotionEncoder
from more4d.models.strag import STraGTransformer
from more4d.models.text import TextEncoder
from more4d.models.vae import MotionVAE
from more4d.pipelines.flow import FlowPipeline, Generators, Predict, StepCallback, Walk
from more4d.pipelines.inputs import Array, Picture, cameras, depths, fit_pictures, pictures, require_size

TrajectoryOutput = Literal["np", "pt", "motion", "latent"]


@dataclass
class TrajectoryPipelineOutput(BaseOutput):
    """What a call found out."""

    trajectories: NDArray[np.float32] | Tensor
    """[B, T, H, W, 3] in metres in the first frame's camera; of output_type "motion" [B, 3, T, H, W] in the units of
    eq. 1, of "latent" the motion latent [B, 16, K, h, w]."""
    depth: Tensor
    """[B, H, W] metres: the given depth, or the depth network's."""
    intrinsics: Tensor | None
    """[B, 3, 3] pixels: the given ones, or the depth network's; None where neither was needed."""


class TrajectoryPipeline(FlowPipeline):
    """Image, text and depth to trajectories.

    The encoders and the depth network may be left out where their outputs are given. The motion features' modulation is
    computed once a call, for all steps and both branches of the guidance; under group offloading, which brings a block's
    weights for that block's forward alone, each block computes its own anew in every forward: the same result, for more
    work. `TrajectoryPipeline.from_pretrained(folder)` loads what `save_pretrained` wrote; `DiffusionPipeline` does not
    know this class.
    """

    model_cpu_offload_seq = "text_encoder->depth_network->image_encoder->motion_encoder->transformer->vae"
    _optional_components = ["tokenizer", "text_encoder", "image_encoder", "motion_encoder", "depth_network"]

    motion_encoder: Any
    depth_network: Any

    def __init__(
        self,
        vae: MotionVAE,
        transformer: STraGTransformer,
        scheduler: SchedulerMixin,
        tokenizer: PreTrainedTokenizerFast | None = None,
        text_encoder: TextEncoder | None = None,
        image_encoder: ImageEncoder | None = None,
        motion_encoder: MotionEncoder | None = None,
        depth_network: DepthNetwork | None = None,
        generation: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._set_up(
            generation, vae=vae, transformer=transformer, scheduler=scheduler, tokenizer=tokenizer,
            text_encoder=text_encoder, image_encoder=image_encoder, motion_encoder=motion_encoder,
            depth_network=depth_network,
        )  # fmt: skip

    @classmethod
    def from_models(cls, models: Models) -> Self:
        """A pipeline of a checkpoint's networks themselves; nothing is copied."""
        return cls(
            vae=models.vae, transformer=models.strag, scheduler=flow_scheduler(models.config.generation.shift),
            tokenizer=models.text.tokenizer, text_encoder=models.text, image_encoder=models.image_encoder,
            motion_encoder=models.motion_encoder, depth_network=models.depth,
            generation=models.config.generation.model_dump(),
        )  # fmt: skip

    @torch.no_grad()
    def encode_motion(self, image: Tensor) -> Tensor:
        """Motion features [B, G, C] of images [B, 3, H, W] in 0..255; keep them, and later calls need no encoder."""
        if self.motion_encoder is None:
            raise ValueError("this pipeline has no motion encoder; give motion_features")
        return self.motion_encoder.encode(image.to(self._execution_device))

    @torch.no_grad()
    def encode_reference(self, image: Tensor) -> Tensor:
        """The latent [B, 16, h, w] of images [B, 3, H, W] in 0..255 for `reference`.

        A checkpoint says itself what it is given (`generation.reference`); this is for another picture than the photo.
        """
        return image_latent(self.vae, to_unit_range(image.to(self._execution_device)), 1)[:, :, 0]

    @torch.no_grad()
    def __call__(
        self,
        image: Picture | Sequence[Image.Image],
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        *,
        depth: Array | None = None,
        intrinsics: Array | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        image_embeds: Tensor | None = None,
        motion_features: Tensor | None = None,
        reference: Tensor | None = None,
        output_type: TrajectoryOutput = "np",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> TrajectoryPipelineOutput | tuple[Any, ...]:
        """Trajectories of every pixel of `image`.

        image: see `pictures`; resized to cover and cropped about the centre to the size that is generated (the
        checkpoint's own unless height and width are given), its intrinsics with it; with a depth it must be of that size.
        depth [H, W] or [B, H, W] metres and intrinsics [3, 3] or [B, 3, 3] pixels are asked of the depth network where
        they are not given. latents [16, K, h, w] (one draw for the whole batch) or [B, 16, K, h, w] replace the
        generator's. reference [B, 16, h, w], the latent of a picture that all frames may look at, replaces what the
        checkpoint's own setting says. A guidance of 1 asks the transformer once a step, above 1 twice: the second time
        with the negative prompt, or with what the checkpoint's `unguided` says. Raises ValueError naming what is missing
        or does not fit.
        """
        size = self._size(num_frames, height, width)
        steps, guidance = self._settings(num_inference_steps, guidance_scale, output_type, get_args(TrajectoryOutput))
        self._check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        rgb, intrinsics = fit_pictures(pictures(image), intrinsics, depth, *size[1:])
        text, unguided = self._embeddings(
            prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, rgb.shape[0], guided=guidance > 1
        )
        rgb = rgb.to(self._execution_device)
        metres, camera = self._geometry(rgb, depth, intrinsics, camera_needed=output_type in ("np", "pt"))
        picture = image_latent(self.vae, to_unit_range(rgb), size[0])
        walk = Walk(
            latents=self._noise(picture.shape, generator, latents),
            prompt_embeds=text,
            negative_prompt_embeds=unguided,
            steps=steps,
            guidance=guidance,
            callback=callback_on_step_end,
            callback_inputs=callback_on_step_end_tensor_inputs,
        )
        found = self._denoise(
            walk,
            self._predictor(
                picture,
                depth_latent(self.vae, metres, size[0], self.generation.depth_encoding),
                self.encode_image(clip_picture(rgb, self.generation.clip_image))
                if image_embeds is None
                else image_embeds,
                self.encode_motion(rgb) if motion_features is None else motion_features,
                reference_latent(picture, self.generation.reference) if reference is None else reference,
            ),
        )
        output = TrajectoryPipelineOutput(self._decode(found, metres, camera, output_type), metres, camera)
        self.maybe_free_model_hooks()
        return output if return_dict else tuple(output.values())

    def _size(self, frames: int | None, height: int | None, width: int | None) -> tuple[int, int, int]:
        frames = self.generation.frames if frames is None else frames
        height, width = self._picture_size(height, width)
        require_size(frames, height, width)
        return frames, height, width

    def _geometry(
        self, rgb: Tensor, depth: Array | None, intrinsics: Array | None, *, camera_needed: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Depth [B, H, W] and intrinsics [B, 3, 3] on the execution device, asked of the depth network where not given."""
        metres = None if depth is None else depths(depth, rgb).to(rgb.device)
        camera = None if intrinsics is None else cameras(intrinsics, rgb).to(rgb.device)
        if metres is not None and (camera is not None or not camera_needed):
            return metres, camera
        if self.depth_network is None:
            missing = "depth" if metres is None else "intrinsics"
            raise ValueError(f"this pipeline has no depth network; give {missing}")
        pixels = rgb if rgb.dtype == torch.uint8 else rgb.round().to(torch.uint8)
        found = self.depth_network.infer(pixels, camera)
        return found.depth if metres is None else metres, found.intrinsics if camera is None else camera

    def _predictor(
        self, picture: Tensor, depth: Tensor, image_embeds: Tensor, features: Tensor, reference: Tensor | None
    ) -> Predict:
        """What the transformer answers about a latent, given everything that is the same in every step and branch."""
        like = {"device": self._execution_device, "dtype": self.transformer.dtype}
        picture, depth, image_embeds, features = (x.to(**like) for x in (picture, depth, image_embeds, features))
        given: dict[str, Any] = {"encoder_hidden_states_image": image_embeds.expand(picture.shape[0], -1, -1)}
        if reference is not None:
            given["reference"] = reference.to(**like).expand(picture.shape[0], -1, -1, -1)
        given |= self._motion(features, picture)

        def predict(noisy: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
            hidden = strag_input(noisy, picture, depth)
            return self.transformer(hidden, timestep, text, **given)

        return predict

    def _motion(self, features: Tensor, picture: Tensor) -> Mapping[str, Any]:
        """The motion features, already made into every block's modulation where the blocks' weights are at hand."""
        # Group offloading brings a block's weights only for that block's own forward.
        if _is_group_offload_enabled(self.transformer):
            return {"motion_features": features}
        rows, columns = (
            side // patch
            for side, patch in zip(picture.shape[-2:], self.transformer.config["patch_size"][1:], strict=True)
        )
        return {"modulation": self.transformer.precompute_modulation(features, rows, columns)}

    def _decode(
        self, latents: Tensor, depth: Tensor, intrinsics: Tensor | None, output_type: TrajectoryOutput
    ) -> NDArray[np.float32] | Tensor:
        if output_type == "latent":
            return latents
        motion = self.vae.decode_motion(latents).float()
        if output_type == "motion":
            return motion
        assert intrinsics is not None
        points = self.vae.points_of(motion, unproject(depth, intrinsics), intrinsics)
        return points if output_type == "pt" else points.cpu().numpy()
