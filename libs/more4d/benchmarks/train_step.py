"""A training step of STraG beside the published formulation, taken in turns in one run; on a GPU also 14B-shaped blocks.

A step is forward, backward and AdamW on one video of 1,280 tokens at width 512, 4 layers, with motion features. The
published formulation, written here from its description, repeats the motion features over the latent frames, projects the
repeated rows to scale and shift in every block, and applies each norm operation by operation.

Run it with OMP_NUM_THREADS=2. Ratios are of the shortest times; a product and a copy timed in the same run tell how
busy the machine was.

Shape letters: B batch, K latent frames, S tokens of one latent frame, L = K·S tokens, C motion width.
"""

import argparse
import functools
from dataclasses import dataclass

import torch
from denoise_step import COLUMNS, FRAMES, ROWS, PublishedBlock, PublishedTransformer, calibrate, shortest
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from more4d.models.architectures import WAN_14B, Architecture
from more4d.models.motion_encoder import OMNIMAE_VITB, MotionEncoder
from more4d.models.recompute import Recompute, compile_blocks, recompute
from more4d.models.strag import STraGTransformer
from more4d.models.work import training_flops
from more4d.training.watch.peak import peak_flops
from torch import Tensor, nn

SHAPE = dict(num_attention_heads=8, attention_head_dim=64, ffn_dim=2048, num_layers=4, text_dim=512)
TEXT_TOKENS, IMAGE_TOKENS, IMAGE_DIM, MOTION_TOKENS, MOTION_DIM = 512, 257, 1280, 196, 768
PICTURE = torch.zeros(1, 3, 224, 224, dtype=torch.uint8)
MODES: tuple[Recompute, ...] = ("none", "selective", "full")


AS_TRAINED = "published, as it is trained"
"""With the motion encoder in every forward and every block recomputed, as its training script has both."""


@dataclass(frozen=True)
class Contender:
    """A network with its optimizer and the step's inputs."""

    network: STraGTransformer
    optimizer: torch.optim.Optimizer
    inputs: dict[str, Tensor]
    target: Tensor
    dtype: torch.dtype
    encoder: MotionEncoder | None = None
    """What makes the motion features anew in every forward; without it they are given, as the latent cache does."""

    def loss(self) -> Tensor:
        """Flow matching's squared error of the velocity."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            if self.encoder is not None:
                self.encoder.encode(PICTURE)
            output = self.network(**self.inputs)
        return (output.float() - self.target).square().mean()

    def step(self) -> None:
        """Forward, backward, AdamW."""
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def make_inputs() -> tuple[dict[str, Tensor], Tensor]:
    """Random inputs of a step, and the velocity to predict."""
    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0))
    inputs = {
        "hidden_states": draw(1, 64, FRAMES, 2 * ROWS, 2 * COLUMNS),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": draw(1, TEXT_TOKENS, 512),
        "encoder_hidden_states_image": draw(1, IMAGE_TOKENS, IMAGE_DIM),
        "motion_features": draw(1, MOTION_TOKENS, MOTION_DIM),
    }
    return inputs, draw(1, 16, FRAMES, 2 * ROWS, 2 * COLUMNS)


def make_network(kind: type[STraGTransformer], mode: Recompute = "none") -> STraGTransformer:
    """Random weights, the same for every kind; the gates are open, so that the motion takes part."""
    torch.manual_seed(0)
    network = kind(**SHAPE)  # type: ignore[arg-type]
    for name, parameter in network.named_parameters():
        if name.endswith(".gate"):
            nn.init.normal_(parameter, std=0.5)
    if kind is PublishedTransformer:
        for block in network.blocks:
            block.__class__ = PublishedBlock
            block.attn1.set_processor(WanAttnProcessor())  # type: ignore[operator]
    recompute(network, mode)
    return network.train()


def contenders(dtype: torch.dtype, *, compiled: bool) -> dict[str, Contender]:
    """Every way of taking the step, by name."""
    inputs, target = make_inputs()
    networks = {"published": make_network(PublishedTransformer), "ours": make_network(STraGTransformer)}
    networks["ours, recompute selective"] = make_network(STraGTransformer, "selective")
    networks["ours, recompute full"] = make_network(STraGTransformer, "full")
    networks["published, recompute full"] = make_network(PublishedTransformer, "full")
    networks[AS_TRAINED] = make_network(PublishedTransformer, "full")
    if compiled:
        networks["ours, compiled blocks"] = make_network(STraGTransformer)
        compile_blocks(networks["ours, compiled blocks"])
    encoder = MotionEncoder(OMNIMAE_VITB).requires_grad_(False)
    return {
        name: Contender(
            network,
            torch.optim.AdamW(network.parameters(), lr=1e-5),
            inputs,
            target,
            dtype,
            encoder if name == AS_TRAINED else None,
        )
        for name, network in networks.items()
    }


def require_agreement(ways: dict[str, Contender], tolerance: float) -> None:
    """Print how far losses and gradients are from the published formulation's; AssertionError where that is too far."""
    expected = gradients(ways["published"])
    for name, way in ways.items():
        found = gradients(way)
        assert found.keys() == expected.keys()
        difference = sum(float((found[key] - expected[key]).square().sum()) for key in found)
        relative = (difference / sum(float(value.square().sum()) for value in expected.values())) ** 0.5
        assert relative < tolerance, f"{name}: gradients are off by {relative:.1e}, more than {tolerance:.0e}"
        print(f"  {name:28} loss and gradients agree within {relative:.1e}")


def gradients(way: Contender) -> dict[str, Tensor]:
    """The loss and every parameter's gradient."""
    loss = way.loss()
    loss.backward()
    named = dict(way.network.named_parameters())
    found = {name: parameter.grad.clone() for name, parameter in named.items() if parameter.grad is not None}
    way.optimizer.zero_grad()
    return found | {"loss": loss.detach()}


def compare(dtype: torch.dtype, repeats: int, *, compiled: bool) -> None:
    """Check all ways against each other, time them in turns and print ratios."""
    name = str(dtype).removeprefix("torch.")
    ways = contenders(dtype, compiled=compiled)
    print(f"{name}:")
    require_agreement(ways, 1e-4 if dtype == torch.float32 else 3e-2)
    for way in ways.values():
        way.step()
    found = shortest({key: way.step for key, way in ways.items()}, repeats)
    for key, seconds in found.items():
        print(
            f"  {key:28} {seconds * 1000:8.1f} ms   {found['published'] / seconds:.2f} x the published formulation's speed"
        )


def profile(dtype: torch.dtype) -> None:
    """Print where our step spends its time."""
    way = contenders(dtype, compiled=False)["ours"]
    way.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        way.step()
    print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))


def large_blocks(blocks: int, repeats: int) -> None:
    """On a GPU: 14B-shaped blocks at the published video's 10,304 tokens, forward and backward, and their MFU."""
    device = torch.device("cuda")
    architecture = WAN_14B.model_copy(update={"strag": WAN_14B.strag.model_copy(update={"layers": blocks})})
    flops = training_flops(architecture, "trajectories").flops
    peak = peak_flops(device, torch.bfloat16)
    ways: list[tuple[Recompute, bool]] = [(mode, compiled) for mode in MODES for compiled in (False, True)]
    for mode, compiled in ways:
        seconds, memory = _timed_on_gpu(architecture, mode, repeats, device, compiled=compiled)
        how = "compiled" if compiled else "eager"
        print(
            f"14B-shaped, {blocks} blocks, 10,304 tokens, recompute {mode}, {how}: {seconds * 1000:.0f} ms, "
            f"{flops / seconds / 1e12:.0f} TFLOP/s, MFU {flops / seconds / peak:.1%}, {memory / 1e9:.1f} GB"
        )


def _timed_on_gpu(
    architecture: Architecture, mode: Recompute, repeats: int, device: torch.device, *, compiled: bool
) -> tuple[float, int]:
    """(shortest seconds of a forward and backward, the most bytes held)."""
    shape = architecture.strag
    torch.manual_seed(0)
    with device:
        network = STraGTransformer(num_layers=shape.layers)
        inputs = {
            "hidden_states": torch.randn(1, 64, 13, 46, 64, dtype=torch.bfloat16),
            "timestep": torch.tensor([500.0]),
            "encoder_hidden_states": torch.randn(1, TEXT_TOKENS, 4096, dtype=torch.bfloat16),
            "encoder_hidden_states_image": torch.randn(1, IMAGE_TOKENS, IMAGE_DIM, dtype=torch.bfloat16),
            "motion_features": torch.randn(1, MOTION_TOKENS, MOTION_DIM, dtype=torch.bfloat16),
            "reference": torch.randn(1, 16, 46, 64, dtype=torch.bfloat16),
        }
    nn.Module.to(network, dtype=torch.bfloat16)
    recompute(network, mode)
    if compiled:
        compile_blocks(network)
    torch.cuda.reset_peak_memory_stats()
    found = [_once_on_gpu(network, inputs) for _ in range(repeats + 2)]
    return min(found[2:]), torch.cuda.max_memory_allocated()


def _once_on_gpu(network: nn.Module, inputs: dict[str, Tensor]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    network(**inputs).float().square().mean().backward()
    end.record()
    torch.cuda.synchronize()
    for parameter in network.parameters():
        parameter.grad = None
    return start.elapsed_time(end) / 1000


def main() -> None:
    """Compare all ways in fp32 and bf16; on a GPU time 14B-shaped blocks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=8, help="runs of each, of which the fastest counts")
    parser.add_argument("--compiled", action="store_true", help="compiled blocks too: a minute of compiling")
    parser.add_argument("--profile", action="store_true", help="where our step spends its time, instead")
    parser.add_argument("--blocks", type=int, default=4, help="14B-shaped blocks, where there is a GPU")
    options = parser.parse_args()
    if options.profile:
        profile(torch.float32)
        return
    tokens = FRAMES * ROWS * COLUMNS
    print(f"{tokens} tokens, width 512, 4 layers, {torch.get_num_threads()} threads; {calibrate()}")
    for dtype in (torch.float32, torch.bfloat16):
        compare(dtype, options.repeats, compiled=options.compiled)
    if torch.cuda.is_available():
        large_blocks(options.blocks, options.repeats)


if __name__ == "__main__":
    main()
