"""Bytes that one sample's forward leaves for its backward, and what the backward needs on top.

Letters: L tokens of the video and the reference, S tokens of one frame (of a network with motion features, else 0), D width,
F feed-forward width, H heads, M tokens of text and image together, N blocks, b bytes of a number in the compute type (2 in
bfloat16), r rank of an adapter.

**Held of a block** by what is computed again (`more4d.models.recompute`):

- none: L·D·(13·b + 36) + 2·L·F·b + M·D·(2·b + 8) + 8·S·D·(b/2) + 12·H·L. In the compute type the block's input, the first
  normed tokens, query, key, value and result of the self-attention, the cross-attention's input, query, two results and their
  sum, the tokens after it, the second normed tokens, and the feed-forward's hidden layer before and after its activation; in
  float32 twice each query and key on the way through their norms, the input of the cross-attention's norm and both gated
  updates (36 = 8 · 4 + 4).
- selective: L·D·11·b + L·F·b + 2·M·D·b + 8·S·D·(b/2) + 12·H·L: the block's input and the results of matrix products and
  attentions alone.
- full: L·D·b, the block's input.

With an adapter beside frozen weights the norms' own weights need no gradient, which takes 12·L·D + 4·M·D off none. It adds
12·L·r·b for the narrow results of its products, and to selective, which keeps the wide ones too, L·(7·D + F)·b.

**Outside of the blocks** about 5·L·D·b/2 bytes. **The peak** comes when the last block's backward begins: N blocks as held,
one more as if nothing were recomputed, and the gradients of the feed-forward's hidden layer, 2·L·F·b.
"""

from dataclasses import dataclass

from more4d.models.architectures import Architecture
from more4d.models.recompute import Recompute
from more4d.models.work import GenerationStep, latent_tokens, shape_of, transformer_work


@dataclass(frozen=True)
class ActivationSizes:
    """The letters above, for one sample."""

    tokens: int
    frame: int
    width: int
    ffn: int
    heads: int
    context: int
    blocks: int
    rank: int = 0

    def held(self, recompute: Recompute, b: int) -> int:
        """Bytes of a block's forward that wait for its backward."""
        tokens, d, f, m = self.tokens, self.width, self.ffn, self.context
        products = 4 * self.frame * d * b + 12 * self.heads * tokens
        if recompute == "full":
            return tokens * d * b
        if recompute == "selective":
            wide = tokens * (7 * d + f) * b if self.rank else 0
            return tokens * (11 * d + f) * b + 2 * m * d * b + products + wide + 12 * tokens * self.rank * b
        norms = (24 * tokens + 4 * m) * d if self.rank else (36 * tokens + 8 * m) * d
        return tokens * (13 * d + 2 * f + 12 * self.rank) * b + 2 * m * d * b + norms + products

    def peak(self, recompute: Recompute, b: int) -> int:
        """The most bytes beside weights and gradients at one time of a forward and backward."""
        outside, gradients = 5 * self.tokens * self.width * b // 2, 2 * self.tokens * self.ffn * b
        again = self.held("none", b) - self.held(recompute, b)
        return self.blocks * self.held(recompute, b) + again + outside + gradients


def activation_sizes(architecture: Architecture, step: GenerationStep, *, rank: int = 0) -> ActivationSizes:
    """One sample of a preset at its own resolution."""
    work, shape, (_, frame) = (
        transformer_work(architecture, step),
        shape_of(architecture, step),
        latent_tokens(architecture),
    )
    return ActivationSizes(
        tokens=work.tokens + work.reference_tokens,
        frame=frame if step == "trajectories" else 0,
        width=work.width,
        ffn=work.ffn,
        heads=shape.heads,
        context=work.text_tokens + work.image_tokens,
        blocks=work.blocks,
        rank=rank,
    )
