"""How many operations a transformer's forward takes, and a training step of it.

Letters: L tokens of the video and the reference, S tokens of one frame, D width, F feed-forward width, M text tokens, I image
tokens, C motion width.

A multiply-add counts as two. In every block 8·L·D² (query, key, value and output of the self-attention), 4·L²·D (its scores
and sums), 4·L·D² + 4·(M+I)·D² + 4·L·(M+I)·D (the same of the cross-attention), 4·L·D·F (feed-forward); once, the embeddings
and the output layer; in 4D-STraG 8·S·C·D a block for the motion features' scales and shifts, and once their adapter.

A backward takes each product twice, once for either factor; where the weights are frozen (LoRA) products with weights are
taken once, those of the attention with itself still twice.
"""

from dataclasses import dataclass
from typing import Literal

from more4d.models.architectures import Architecture, TransformerShape
from more4d.models.vae import LATENT_STRIDE

GenerationStep = Literal["trajectories", "views"]
"""What 4D-STraG generates, and what 4D-ViSM does."""
PATCH = 2


@dataclass(frozen=True)
class TransformerWork:
    """The sizes that a transformer's work follows from."""

    tokens: int
    width: int
    ffn: int
    blocks: int
    text_tokens: int
    text_width: int
    image_tokens: int
    image_width: int
    in_channels: int
    reference_tokens: int = 0
    out_channels: int = 16
    frequencies: int = 256

    @property
    def flops(self) -> int:
        """Operations of one forward of one sample."""
        return self.block_flops + self._embeddings

    @property
    def block_flops(self) -> int:
        """Those of all blocks together."""
        d, m, all_tokens = self.width, self.text_tokens + self.image_tokens, self.tokens + self.reference_tokens
        linear = 12 * all_tokens * d**2 + 4 * m * d**2 + 4 * all_tokens * d * self.ffn
        return self.blocks * linear + self.attention_flops

    @property
    def attention_flops(self) -> int:
        """Those of the blocks in which no weight takes part: scores and sums of both attentions."""
        all_tokens = self.tokens + self.reference_tokens
        return self.blocks * 4 * all_tokens * (all_tokens + self.text_tokens + self.image_tokens) * self.width

    @property
    def _embeddings(self) -> int:
        d, cell = self.width, PATCH**2
        patches = 2 * self.tokens * d * cell * (self.in_channels + self.out_channels)
        reference = 2 * self.reference_tokens * d * cell * self.out_channels
        text = 2 * self.text_tokens * (self.text_width * d + d**2)
        image = 2 * self.image_tokens * (self.image_width**2 + self.image_width * d)
        time = 2 * (self.frequencies * d + d**2 + 6 * d**2)
        return patches + reference + text + image + time

    def activation_bytes(self, b: int) -> int:
        """The most that a forward without gradients holds at one time, in a compute type of `b` bytes."""
        tokens, d = self.tokens + self.reference_tokens, self.width
        attention, ffn = tokens * d * (4 * b + 16), tokens * (4 * d + 2 * self.ffn) * b
        return max(attention, ffn) + 2 * (self.text_tokens + self.image_tokens) * d * b


@dataclass(frozen=True)
class TrainingWork:
    """What one sample of a training step takes of the transformer."""

    tokens: int
    """Of the video and the reference: what the blocks work on."""
    flops: int
    """Forward and backward: what MFU counts."""
    recomputed: int
    """Operations more where every block is computed a second time for the backward; hardware does them, MFU does not count
    them."""


def transformer_work(architecture: Architecture, step: GenerationStep) -> TransformerWork:
    """The sizes of a step's transformer at the preset's resolution."""
    shape, (frames, frame) = shape_of(architecture, step), latent_tokens(architecture)
    takes_reference = step == "trajectories" and architecture.strag.reference_channels is not None
    return TransformerWork(
        tokens=frames * frame,
        width=shape.heads * shape.head_dim,
        ffn=shape.ffn_dim,
        blocks=shape.layers,
        text_tokens=architecture.text.max_tokens,
        text_width=architecture.text.dim,
        image_tokens=architecture.image_encoder.tokens,
        image_width=architecture.image_encoder.dim,
        in_channels=64 if step == "trajectories" else 36,
        reference_tokens=frame if takes_reference else 0,
    )


def training_flops(architecture: Architecture, step: GenerationStep, *, lora: bool = False) -> TrainingWork:
    """One sample's forward and backward through a step's transformer at the preset's resolution.

    `lora`: the weights are frozen; the adapters' own products are not counted.
    """
    work = transformer_work(architecture, step)
    motion = modulation_flops(architecture) if step == "trajectories" else 0
    forward = work.flops + motion
    backward = forward + work.attention_flops if lora else 2 * forward
    return TrainingWork(work.tokens + work.reference_tokens, forward + backward, work.block_flops)


def modulation_flops(architecture: Architecture) -> int:
    """The adapter on the motion patches, and both norms' scale and shift in every block: once an image."""
    encoder, shape = architecture.motion_encoder, architecture.strag
    if shape.motion_tokens == "none":
        return 0
    if shape.motion_tokens == "first":
        return 8 * shape.layers * encoder.dim * shape.heads * shape.head_dim
    rows, columns = encoder.grid
    _, frame = latent_tokens(architecture)
    adapter = 36 * rows * columns * encoder.dim**2
    return adapter + 8 * shape.layers * frame * encoder.dim * shape.heads * shape.head_dim


def latent_tokens(architecture: Architecture) -> tuple[int, int]:
    """Latent frames, and tokens of one of them, at the preset's resolution."""
    generation, (time, rows, columns) = architecture.generation, LATENT_STRIDE
    frame = (generation.height // rows // PATCH) * (generation.width // columns // PATCH)
    return 1 + (generation.frames - 1) // time, frame


def shape_of(architecture: Architecture, step: GenerationStep) -> TransformerShape:
    """Depth and width of a step's transformer."""
    return architecture.strag if step == "trajectories" else architecture.vism
