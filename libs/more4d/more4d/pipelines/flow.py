"""What both pipelines do alike: components, embeddings, noise, and the walk through the flow from noise to a sample.

Suffixes: B batch, C latent channels, K latent frames, h and w latent rows and columns, L tokens of a prompt, D width.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from more4d.models.architectures import Generation
from more4d.models.flow_matching import TIMESTEPS, to_velocity
from more4d.models.text import tokenize
from more4d.pipelines.caching import register_blocks
from more4d.pipelines.inputs import prompts

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The transformer's answer for (noisy latents [B, C, K, h, w], timestep [B], prompt embeddings [B, L, D])."""
Generators = torch.Generator | Sequence[torch.Generator] | None
StepCallback = (
    Callable[[Any, int, Tensor, dict[str, Any]], Mapping[str, Any]] | PipelineCallback | MultiPipelineCallbacks
)


@dataclass
class Walk:
    """Where a walk through the flow stands, and how it goes on; a callback may replace the tensors."""

    latents: Tensor
    prompt_embeds: Tensor
    negative_prompt_embeds: Tensor
    """What the unguided branch reads; without a negative prompt what `Generation.unguided` says."""
    steps: int
    guidance: float
    callback: StepCallback | None = None
    callback_inputs: Sequence[str] = ("latents",)


class FlowPipeline(DiffusionPipeline):
    """Components by name, embeddings and the sampler; what is generated from what, the two pipelines say themselves.

    A saved folder is loaded by the pipeline's own class, `TrajectoryPipeline.from_pretrained(folder)`, say: diffusers'
    `DiffusionPipeline.from_pretrained` looks among diffusers' own pipelines, and ours are none of them.

    What was saved and loaded with `disable_mmap=True` gives the same bits; weights that are mapped from their file, the
    default, may round the last one otherwise. Nothing but the CPU was run here: offloading to an accelerator, streams
    and half precision on a GPU go through diffusers' and accelerate's own hooks, tested with the CPU as the target.
    """

    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    # Any: diffusers and accelerate wrap components, and the tests replace them.
    transformer: Any
    vae: Any
    scheduler: Any
    tokenizer: Any
    text_encoder: Any
    image_encoder: Any
    generation: Generation

    def _set_up(self, generation: Generation | Mapping[str, Any] | None, **components: Any) -> None:
        register_blocks()
        self.register_modules(**components)
        self.generation = Generation.model_validate(generation or {})
        self.register_to_config(generation=self.generation)
        self._guidance_scale, self._num_timesteps, self._interrupt = 1.0, 0, False

    def register_to_config(self, **entries: Any) -> None:
        """Names our components by `more4d`'s public names, so that model_index.json outlives a move of their code."""
        super().register_to_config(**{name: _stored(entry) for name, entry in entries.items()})

    @property
    def guidance_scale(self) -> float:
        """The guidance of the call that is running."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether each step asks the transformer twice."""
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Steps of the call that is running; callbacks ask for it."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Set `pipeline._interrupt` from a callback to leave out all further steps."""
        return self._interrupt

    def enable_vae_tiling(self, **sizes: int) -> None:
        """The video VAE works tile by tile from now on: less memory, faint differences at the seams."""
        self.vae.vae.enable_tiling(**sizes)

    def disable_vae_tiling(self) -> None:
        """The video VAE works on whole frames again."""
        self.vae.vae.disable_tiling()

    def enable_group_offload(
        self,
        onload_device: torch.device,
        *args: Any,
        offload_to_disk_path: str | None = None,
        exclude_modules: Sequence[str] = (),
        **options: Any,
    ) -> None:
        """diffusers' group offloading of every component; on disk each has a folder of its own.

        In one folder components would overwrite each other: a file is named after its group's place in the component.
        """
        if offload_to_disk_path is None:
            super().enable_group_offload(onload_device, *args, exclude_modules=list(exclude_modules), **options)
            return
        for name, part in self.components.items():
            if not isinstance(part, nn.Module):
                continue
            if name in exclude_modules:
                part.to(onload_device)
            else:
                folder = str(Path(offload_to_disk_path) / name)
                part.enable_group_offload(onload_device, *args, offload_to_disk_path=folder, **options)  # type: ignore[operator]

    @torch.no_grad()
    def encode_prompt(self, prompt: str | Sequence[str], batch: int = 1) -> Tensor:
        """Embeddings [B, L, D] of one prompt for each of `batch` pictures; keep them, and later calls need no encoder.

        Raises ValueError where the pipeline has no text encoder, or the prompts are not as many as the pictures.
        """
        texts = prompts(prompt, batch)
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError("this pipeline has no text encoder and tokenizer; give prompt_embeds in place of a prompt")
        ids, mask = tokenize(self.tokenizer, texts, self.text_encoder.config.max_tokens)
        device = self._execution_device
        return self.text_encoder(ids.to(device), mask.to(device))

    @torch.no_grad()
    def encode_image(self, image: Tensor) -> Tensor:
        """CLIP's tokens [B, I, D] of images [B, 3, H, W] in 0..255; keep them, and later calls need no encoder."""
        if self.image_encoder is None:
            raise ValueError("this pipeline has no image encoder; give image_embeds")
        return self.image_encoder.encode(image.to(self._execution_device))

    def _embeddings(
        self,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] | None,
        given: Tensor | None,
        negative: Tensor | None,
        batch: int,
        *,
        guided: bool,
    ) -> tuple[Tensor, Tensor]:
        """The prompt's embeddings [B, L, D] and those of the unguided branch, zeros where no one is to read them."""
        if (prompt is None) == (given is None):
            raise ValueError("give prompt or prompt_embeds, one of them")
        if negative_prompt is not None and negative is not None:
            raise ValueError("give negative_prompt or negative_prompt_embeds, not both")
        embeds = self.encode_prompt(prompt, batch) if prompt is not None else given
        assert embeds is not None
        embeds = embeds.to(self._execution_device).expand(batch, -1, -1)
        if negative_prompt is not None:
            negative = self.encode_prompt(negative_prompt, batch)
        elif negative is None and guided and self.generation.unguided == "empty":
            negative = self._no_words()
        if negative is None:
            return embeds, torch.zeros_like(embeds)
        negative = negative.to(embeds).expand(batch, -1, -1)
        if negative.shape != embeds.shape:
            raise ValueError(f"negative_prompt_embeds are {tuple(negative.shape)}, prompt_embeds {tuple(embeds.shape)}")
        return embeds, negative

    def _no_words(self) -> Tensor:
        """Embeddings [1, L, D] of the empty prompt."""
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError(
                'this checkpoint\'s guidance leads away from the encoding of "" (generation.unguided), and this pipeline '
                "has no text encoder and tokenizer; give negative_prompt_embeds, or guidance_scale=1"
            )
        return self.encode_prompt("")

    def _picture_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        own = self.generation
        return own.height if height is None else height, own.width if width is None else width

    def _settings(
        self, steps: int | None, guidance: float | None, output_type: str, output_types: Sequence[str]
    ) -> tuple[int, float]:
        """Steps and guidance, the checkpoint's own where none are given. Raises ValueError saying what is allowed."""
        steps = self.generation.steps if steps is None else steps
        guidance = self.generation.guidance if guidance is None else guidance
        if not isinstance(steps, int | np.integer) or steps < 1:
            raise ValueError(f"num_inference_steps={steps} must be a whole number of at least 1")
        if not 1 <= guidance < math.inf:
            raise ValueError(f"guidance_scale={guidance} must be a finite number of at least 1; 1 is without guidance")
        if output_type not in output_types:
            raise ValueError(f"output_type={output_type!r} must be one of {', '.join(output_types)}")
        return int(steps), guidance

    def _noise(self, shape: torch.Size, generator: Generators, given: Tensor | None) -> Tensor:
        """The latents [B, C, K, h, w] that the walk starts from: the given ones (one for all, or each its own), or drawn."""
        device = self._execution_device
        if given is None:
            generators = list(generator) if isinstance(generator, Sequence) else generator
            if isinstance(generators, list) and len(generators) != shape[0]:
                raise ValueError(f"{len(generators)} generators were given for {shape[0]} pictures")
            return randn_tensor(tuple(shape), generator=generators, device=device, dtype=torch.float32)
        if given.shape[-4:] != shape[1:] or given.ndim > 5:
            raise ValueError(f"latents are {tuple(given.shape)}, not {tuple(shape)}")
        return given.to(device, torch.float32).expand(shape)

    def _denoise(self, walk: Walk, predict: Predict) -> Tensor:
        """The latents at the end of the flow."""
        self._guidance_scale, self._interrupt = walk.guidance, False
        self.scheduler.set_timesteps(walk.steps, device=walk.latents.device)
        timesteps = self.scheduler.timesteps
        self._num_timesteps = len(timesteps)
        with self.progress_bar(total=len(timesteps)) as bar:  # type: ignore[attr-defined]
            for step, timestep in enumerate(timesteps):
                if not self._interrupt:
                    flow = self._flow(walk, predict, self._noise_level(step, timestep).to(walk.latents))
                    walk.latents = self.scheduler.step(flow, timestep, walk.latents, return_dict=False)[0]
                    self._call_back(walk, step, timestep)
                bar.update()
        return walk.latents

    def _flow(self, walk: Walk, predict: Predict, sigma: Tensor) -> Tensor:
        """The guided velocity."""
        flow = self._velocity("cond", walk.latents, sigma, walk.prompt_embeds, predict)
        if not self.do_classifier_free_guidance:
            return flow
        unguided = self._velocity("uncond", walk.latents, sigma, walk.negative_prompt_embeds, predict)
        return unguided + walk.guidance * (flow - unguided)

    def _velocity(self, branch: str, latents: Tensor, sigma: Tensor, text: Tensor, predict: Predict) -> Tensor:
        sigmas = sigma.expand(latents.shape[0])
        dtype = self.transformer.dtype
        # Named, so that diffusers' caches keep the two branches apart.
        with self.transformer.cache_context(branch):
            output = predict(latents.to(dtype), sigmas * TIMESTEPS, text.to(dtype))
        return to_velocity(output.float(), latents, sigmas, self.generation.prediction)

    def _noise_level(self, step: int, timestep: Tensor) -> Tensor:
        """Sigma of a step: schedulers that round their timesteps keep it apart."""
        return timestep / TIMESTEPS if timestep.is_floating_point() else self.scheduler.sigmas[step]

    def _call_back(self, walk: Walk, step: int, timestep: Tensor) -> None:
        if walk.callback is None:
            return
        names = getattr(walk.callback, "tensor_inputs", walk.callback_inputs)
        replaced = walk.callback(self, step, timestep, {name: getattr(walk, name) for name in names}) or {}
        for name in self._callback_tensor_inputs:
            setattr(walk, name, replaced.get(name, getattr(walk, name)))

    def _check_callback(self, callback: StepCallback | None, names: Sequence[str]) -> None:
        names = getattr(callback, "tensor_inputs", names)
        if unknown := sorted(set(names) - set(self._callback_tensor_inputs)):
            raise ValueError(
                f"callbacks are given {', '.join(self._callback_tensor_inputs)}; {', '.join(unknown)} is none of them"
            )


def _stored(entry: Any) -> Any:
    """What model_index.json says of a component, [library, class], or of a setting."""
    if isinstance(entry, Generation):
        return entry.model_dump(mode="json")
    ours = isinstance(entry, tuple | list) and str(entry[0]).startswith("more4d.")
    return ("more4d", entry[1]) if ours else entry
