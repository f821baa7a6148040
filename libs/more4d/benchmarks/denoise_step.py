"""One denoising step of STraG beside the published formulation and diffusers' own class, timed in turns in one run.

A step is the two guidance branches of one image, one forward after the other for every contender. The published
formulation, written here from its description, runs the motion encoder in every forward, repeats the features over the
latent frames, and projects the repeated rows to scale and shift in every block. Ours is given the modulation that
`precompute_modulation` made once.

Run it with OMP_NUM_THREADS=2. Ratios are of the shortest times; a product and a copy timed in the same run tell how
busy the machine was.

Shape letters: B batch, K latent frames, S tokens of one latent frame, L = K·S tokens, G motion tokens, C motion width.
"""

import argparse
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor, WanTransformer3DModel
from more4d.models.blocks import gated_residual
from more4d.models.motion_encoder import OMNIMAE_VITB, MotionEncoder
from more4d.models.strag import STraGBlock, STraGTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

FRAMES, ROWS, COLUMNS = 5, 16, 16
SHAPE = dict(num_attention_heads=4, attention_head_dim=128, ffn_dim=1408, num_layers=4, text_dim=512)
TEXT_TOKENS, IMAGE_TOKENS, IMAGE_DIM = 512, 257, 1280
Network = TypeVar("Network", bound=nn.Module)


class PublishedBlock(STraGBlock):
    """The block with its modulation projected for every token of every frame, in every forward."""

    def forward(  # type: ignore[override]
        self,
        hidden_BLD: Tensor,
        context: Tensor,
        temb: Tensor,
        rotary: tuple[Tensor, Tensor],
        motion_BLC: Tensor,
        frames: int,
        prefix: int,
    ) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.scale_shift_table + temb.float()).unbind(dim=1)
        normed = self._guided(hidden_BLD, scale1, shift1, self.motion1, motion_BLC)
        hidden_BLD = gated_residual(hidden_BLD, self.attn1(normed, None, None, rotary), gate1)
        normed = self.norm2(hidden_BLD.float()).type_as(hidden_BLD)
        hidden_BLD = hidden_BLD + self.attn2(normed, context, None, None)
        normed = self._guided(hidden_BLD, scale2, shift2, self.motion2, motion_BLC)
        return gated_residual(hidden_BLD, self.ffn(normed), gate2)

    def _guided(self, x_BLD: Tensor, scale_BD: Tensor, shift_BD: Tensor, motion: nn.Module, features: Tensor) -> Tensor:
        timed = self.norm1(x_BLD.float()) * (1 + scale_BD[:, None]) + shift_BD[:, None]
        scale, shift = motion.linear(functional.silu(features)).chunk(2, dim=-1)  # type: ignore[operator]
        return (timed * (1 + motion.gate * scale) + motion.gate * shift).type_as(x_BLD)  # type: ignore[operator]


class PublishedTransformer(STraGTransformer):
    """STraG with the features repeated over the latent frames before the first block."""

    def align_motion(self, features: Tensor, rows: int, columns: int) -> Tensor:
        """Motion features [B, L, C]."""
        return super().align_motion(features, rows, columns).repeat(1, FRAMES, 1)


@dataclass(frozen=True)
class Inputs:
    """What the two branches read (latents, text, CLIP's tokens), and the picture of the motion encoder."""

    branches: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
    picture: Tensor


def make_inputs(dtype: torch.dtype) -> Inputs:
    """Random inputs of a step."""
    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0))
    shared = {
        "hidden_states": draw(1, 64, FRAMES, 2 * ROWS, 2 * COLUMNS).to(dtype),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states_image": draw(1, IMAGE_TOKENS, IMAGE_DIM).to(dtype),
    }
    text = draw(1, TEXT_TOKENS, 512).to(dtype)
    branches = shared | {"encoder_hidden_states": text}, shared | {"encoder_hidden_states": torch.zeros_like(text)}
    return Inputs(branches, draw(1, 3, ROWS * 16, COLUMNS * 16).to(dtype))


def make_networks(dtype: torch.dtype) -> tuple[STraGTransformer, STraGTransformer, WanTransformer3DModel]:
    """Ours, the published formulation and diffusers' class, with the same weights."""
    torch.manual_seed(0)
    ours = STraGTransformer(**SHAPE)  # type: ignore[arg-type]
    for block in ours.blocks:
        for motion in (block.motion1, block.motion2):
            nn.init.normal_(motion.gate, std=0.5)  # type: ignore[arg-type]
    published = PublishedTransformer(**SHAPE)  # type: ignore[arg-type]
    published.load_state_dict(ours.state_dict())
    for block in published.blocks:
        block.__class__ = PublishedBlock
        block.attn1.set_processor(WanAttnProcessor())  # type: ignore[operator]
    added = dict(image_dim=IMAGE_DIM, added_kv_proj_dim=512, in_channels=64, out_channels=16)
    twin = WanTransformer3DModel(**SHAPE, **added)  # type: ignore[arg-type]
    twin.load_state_dict({k: v for k, v in ours.state_dict().items() if k in twin.state_dict()})
    return cast(ours, dtype), cast(published, dtype), cast(twin, dtype)


def cast(network: Network, dtype: torch.dtype) -> Network:
    """The network with all of its weights in `dtype`; diffusers' own `to` warns of what it would keep in fp32."""
    nn.Module.to(network, dtype=dtype)
    return network.eval()


def steps(dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    """Every way of taking the step, by name."""
    inputs = make_inputs(dtype)
    ours, published, twin = make_networks(dtype)
    encoder = cast(MotionEncoder(OMNIMAE_VITB), dtype)
    features = encoder.encode(inputs.picture)
    modulation = ours.precompute_modulation(features, ROWS, COLUMNS)
    forwards: dict[str, Callable[..., Tensor]] = {
        "published, encoder in every forward": lambda **given: published(
            **given, motion_features=encoder.encode(inputs.picture)
        ),
        "published, encoder left out": functools.partial(published, motion_features=features),
        "ours": functools.partial(ours, modulation=modulation),
        "ours, without motion features": ours,
        "diffusers' WanTransformer3DModel": lambda **given: twin(**given, return_dict=False)[0],
    }
    return {
        name: lambda forward=forward: torch.cat([forward(**given) for given in inputs.branches])
        for name, forward in forwards.items()
    }


def shortest(work: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The shortest seconds of each piece of work; all take turns, so that a busy moment meets them alike."""
    found = dict.fromkeys(work, float("inf"))
    for _ in range(repeats):
        for name, call in work.items():
            start = time.perf_counter()
            call()
            found[name] = min(found[name], time.perf_counter() - start)
    return found


def calibrate() -> str:
    """How fast this machine multiplies and copies just now."""
    matrix, block = torch.randn(1024, 1024), torch.zeros(2**24)
    found = shortest({"product": lambda: matrix @ matrix, "copy": block.clone}, 10)
    return (
        f"{2 * 1024**3 / found['product'] / 1e9:.0f} GFLOP/s product, {8 * 2**24 / found['copy'] / 1e9:.1f} GB/s copy"
    )


def report_flops() -> None:
    """What the encoder and the modulation cost of a 14B step (both branches, 49 frames of 368x512)."""
    tokens, rows, dim, layers, motion = 13 * 23 * 32, 23 * 32, 5120, 40, 768
    with torch.device("meta"):
        network = STraGTransformer()
        given = (torch.empty(1, 64, 13, 46, 64), torch.empty(1), torch.empty(1, 512, 4096), torch.empty(1, 257, 1280))
        encoder, picture = MotionEncoder(OMNIMAE_VITB), torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as whole:
        network(*given)
    with FlopCounterMode(display=False) as encoding:
        encoder.encode(picture)
    project = 2 * motion * 2 * dim * 2 * layers
    print(
        f"14B, 49 frames of 368x512, one step of both branches: {2 * whole.get_total_flops() / 1e12:.1f} TFLOP without motion"
    )
    print(
        f"  motion encoder {encoding.get_total_flops() / 1e12:.3f} TFLOP; published: in every forward, ours: once an image"
    )
    print(
        f"  modulation {tokens * project / 1e12:.2f} TFLOP a forward as published; ours {rows * project / 1e12:.3f} once an image"
    )


def compare(dtype: torch.dtype, repeats: int) -> None:
    """Time all steps in one precision and print their ratios."""
    work = steps(dtype)
    for call in work.values():
        call()
    if dtype == torch.float32:
        reference, own = work["published, encoder left out"](), work["ours"]()
        print(
            f"relative difference of ours from the published formulation: {(own - reference).norm() / reference.norm():.1e}"
        )
    found = shortest(work, repeats)
    for name, seconds in found.items():
        print(
            f"{str(dtype).removeprefix('torch.'):9} {name:36} {seconds * 1000:7.1f} ms  {seconds / found['ours']:.2f} x ours"
        )
    bare = found["ours, without motion features"] / found["diffusers' WanTransformer3DModel"]
    print(f"{'':9} without motion features / diffusers: {bare:.3f}")


@torch.no_grad()
def main() -> None:
    """Compare all steps in fp32 and bf16."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=8, help="runs of each, of which the fastest counts")
    options = parser.parse_args()
    tokens = FRAMES * ROWS * COLUMNS
    print(f"{tokens} tokens, width 512, 4 layers, {torch.get_num_threads()} threads; {calibrate()}")
    for dtype in (torch.float32, torch.bfloat16):
        compare(dtype, options.repeats)
    report_flops()


if __name__ == "__main__":
    main()
