"""Predicted size, work, memory and time of a preset's steps, before anything is loaded.

Letters: L tokens of the video and the reference, S tokens of one frame, K latent frames, D width, F feed-forward width,
N blocks, M text tokens, I image tokens, C motion width, G motion patches, b bytes of a number in the compute type.

**Work of one forward of the transformer**: see `more4d.models.work`.

**Memory beside the weights**: the transformer holds most either around the attention, L·D·(4·b + 16) bytes (four tensors in
the compute type, four in float32 where the norm is applied), or in the feed-forward, L·(4·D + 2·F)·b; besides 2·(M+I)·D·b of
context, and S·(C + 2·D)·b of motion features, or 4·N·S·D·b when all blocks' modulation is made once an image. The VAE is
traced operation by operation.

**Time** is work divided by the rate of a large matrix product measured on the device: a lower bound.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import nn

from more4d.doctor.trace import Cost, trace, without_numbers
from more4d.models.architectures import Architecture, Generation
from more4d.models.bundle import build_strag, build_vism
from more4d.models.image_encoder import ImageEncoder
from more4d.models.motion_encoder import MotionEncoder
from more4d.models.text import TextEncoder
from more4d.models.vae import LATENT_STRIDE, MotionVAE, MotionVAEConfig
from more4d.models.work import GenerationStep, TransformerWork, modulation_flops, transformer_work

STEPS: tuple[GenerationStep, ...] = ("trajectories", "views")
Offload = Literal["none", "model", "group", "sequential"]
OFFLOADS: tuple[Offload, ...] = ("none", "model", "group", "sequential")
"""From fastest to smallest: everything on the device; one network at a time; two blocks at a time; one layer at a time."""
HEADROOM = 0.92
"""Share of the device's memory to plan with: the rest goes to the driver and to fragments."""
_NETWORKS: dict[GenerationStep, tuple[str, ...]] = {
    "trajectories": ("strag", "vae", "text", "image_encoder", "motion_encoder"),
    "views": ("vism", "vae", "text", "image_encoder"),
}


@dataclass(frozen=True)
class NetworkSize:
    """A network's parameters, and the most that has to be on the device at once."""

    parameters: int
    outside_blocks: int
    largest_block: int
    largest_layer: int

    def resident(self, offload: Offload) -> int:
        """Parameters on the device while the network runs."""
        by_mode = {"group": self.outside_blocks + 2 * self.largest_block, "sequential": self.largest_layer}
        return min(by_mode.get(offload, self.parameters), self.parameters)


@dataclass(frozen=True)
class Prediction:
    """What one step of a preset takes."""

    step: GenerationStep
    parameters: dict[str, int]
    flops: int
    forward_flops: int
    """Of one forward of the transformer."""
    peak_bytes: dict[Offload, int]
    seconds: float | None
    """None for a device whose rate is not known."""
    offload: Offload | None
    """The fastest that fits; None when none does."""


def network_sizes(architecture: Architecture) -> dict[str, NetworkSize]:
    """Every network's size, counted on the meta device."""
    return _network_sizes(architecture.model_dump_json())


@cache
def _network_sizes(architecture_json: str) -> dict[str, NetworkSize]:
    architecture = Architecture.model_validate_json(architecture_json)
    with torch.device("meta"):
        networks: dict[str, nn.Module] = {
            "strag": build_strag(architecture),
            "vism": build_vism(architecture),
            "vae": MotionVAE(architecture.motion_vae),
            "motion_encoder": MotionEncoder(architecture.motion_encoder),
            "image_encoder": ImageEncoder(architecture.image_encoder),
            "text": TextEncoder(architecture.text),
        }
    return {name: _size(network) for name, network in networks.items()}


def predict(
    architecture: Architecture,
    step: GenerationStep,
    *,
    memory: int,
    rate: float | None,
    number_bytes: int,
    offloads: Iterable[Offload] = OFFLOADS,
) -> Prediction:
    """What a step takes of one photo on a device of `memory` bytes that does `rate` operations a second.

    number_bytes: of a number in the compute type, 4 on a CPU, 2 in bf16. Raises ValueError for a rate of zero.
    """
    if rate is not None and rate <= 0:
        raise ValueError(f"rate={rate} must be above 0 operations a second")
    sizes = network_sizes(architecture)
    parts = {name: sizes[name] for name in _NETWORKS[step]}
    held, vae = _held(architecture, step, number_bytes), vae_cost(architecture, number_bytes)
    peaks: dict[Offload, int] = {mode: _peak(parts, held, mode, number_bytes) for mode in offloads}
    work = transformer_work(architecture, step)
    flops = _step_flops(architecture, step, work, vae, sizes)
    return Prediction(
        step=step,
        parameters={name: size.parameters for name, size in parts.items()},
        flops=flops,
        forward_flops=work.flops,
        peak_bytes=peaks,
        seconds=None if rate is None else flops / rate,
        offload=next((mode for mode in peaks if peaks[mode] <= HEADROOM * memory), None),
    )


def vae_cost(architecture: Architecture, number_bytes: int) -> dict[str, Cost]:
    """What encoding a video, decoding one, and decoding motion take at the preset's resolution."""
    # By what it depends on: presets that share the VAE share the seconds that tracing it takes.
    return _vae_cost(architecture.motion_vae.model_dump_json(), architecture.generation.model_dump_json(), number_bytes)


@cache
def _vae_cost(vae_json: str, generation_json: str, number_bytes: int) -> dict[str, Cost]:
    g, (time, rows, columns) = Generation.model_validate_json(generation_json), LATENT_STRIDE
    dtype = torch.float32 if number_bytes == 4 else torch.bfloat16
    with without_numbers(dtype):
        vae = MotionVAE(MotionVAEConfig.model_validate_json(vae_json)).eval()
        video = torch.zeros(1, 3, g.frames, g.height, g.width)
        latent = torch.zeros(
            1, vae.vae.config["z_dim"], 1 + (g.frames - 1) // time, g.height // rows, g.width // columns
        )
        return {
            "encode": trace(lambda: vae.encode_video(video)),
            "decode": trace(lambda: vae.decode_video(latent)),
            "motion": trace(lambda: vae.decode_motion(latent)),
        }


def _size(network: nn.Module) -> NetworkSize:
    blocks = [
        _parameters(child) for m in network.modules() if isinstance(m, nn.ModuleList) for child in m if _is_block(child)
    ]
    leaves = [sum(p.numel() for p in m.parameters(recurse=False)) for m in network.modules()]
    total, repeated = _parameters(network), _outermost(network)
    return NetworkSize(total, total - repeated, max(blocks, default=total), max(leaves, default=0))


def _outermost(network: nn.Module) -> int:
    """Parameters in the network's longest list of blocks."""
    lists = [_parameters(m) for m in network.modules() if isinstance(m, nn.ModuleList)]
    return max(lists, default=0)


def _is_block(module: nn.Module) -> bool:
    return any(True for _ in module.children())


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _held(architecture: Architecture, step: GenerationStep, b: int) -> dict[str, int]:
    """Bytes that each network holds beside its weights while it runs."""
    work, cost = transformer_work(architecture, step), vae_cost(architecture, b)
    text, image = architecture.text, architecture.image_encoder
    name, decoded = ("strag", "motion") if step == "trajectories" else ("vism", "decode")
    frame = work.reference_tokens or work.tokens // (1 + (architecture.generation.frames - 1) // LATENT_STRIDE[0])
    cached = 4 * work.blocks * frame * work.width * b if step == "trajectories" else 0
    return {
        name: work.activation_bytes(b) + cached,
        "vae": max(cost["encode"].peak_bytes, cost[decoded].peak_bytes),
        "text": text.max_tokens * (4 * text.dim + 2 * text.mlp_dim) * b,
        "image_encoder": image.tokens * (4 * image.dim + 2 * image.mlp_dim) * b,
        "motion_encoder": 2 * architecture.motion_encoder.table_length * 8 * architecture.motion_encoder.dim * b,
    }


def _peak(parts: dict[str, NetworkSize], held: dict[str, int], offload: Offload, b: int) -> int:
    if offload == "none":
        return sum(size.parameters for size in parts.values()) * b + max(held[name] for name in parts)
    return max(size.resident(offload) * b + held[name] for name, size in parts.items())


def _step_flops(
    architecture: Architecture,
    step: GenerationStep,
    work: TransformerWork,
    vae: dict[str, Cost],
    sizes: dict[str, NetworkSize],
) -> int:
    """Sampling, with both branches of the guidance, the VAE's three or two runs, and each encoder once a prompt."""
    generation = architecture.generation
    branches = 2 if generation.guidance > 1 else 1
    encoders = 2 * sizes["image_encoder"].parameters * work.image_tokens
    encoders += branches * 2 * (sizes["text"].parameters - _embedding(architecture)) * work.text_tokens
    coded = vae["encode"].flops + vae["decode"].flops
    if step == "trajectories":
        rows, columns = architecture.motion_encoder.grid
        encoders += 2 * sizes["motion_encoder"].parameters * rows * columns + modulation_flops(architecture)
        # The photo and its depth are encoded, the motion is decoded.
        coded = 2 * vae["encode"].flops + vae["motion"].flops
    return generation.steps * branches * work.flops + coded + encoders


def _embedding(architecture: Architecture) -> int:
    """The text encoder's table of words: looked up, not multiplied."""
    return architecture.text.vocabulary * architecture.text.dim
