"""`madanorm` and `modulated_norm` at the token counts of the published networks: 13 latent frames of 736 positions.

On a CPU the 1.3B network's width in float32, on a GPU the 14B network's in bfloat16. "published" is the published
formulation, written from its description: LayerNorm, AdaLN, then scale and shift that the motion's Linear made for every
token of every frame.
"""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from measure import Case
from more4d_kernels import madanorm, modulated_norm
from more4d_kernels.madanorm.gpu import programs_per_sample
from more4d_kernels.madanorm.problem import Problem
from more4d_kernels.madanorm.reference import madanorm_reference
from more4d_kernels.madanorm.traffic import backward_bytes, forward_bytes
from torch import Tensor
from torch.nn import functional

FRAMES, POSITIONS = 13, 736
TOKENS = FRAMES * POSITIONS
EPS = 1e-6


@dataclass(frozen=True)
class Inputs:
    """Of one sample; `time_*` in float32, as the blocks compute them."""

    x: Tensor
    time_scale: Tensor
    time_shift: Tensor
    motion_scale: Tensor
    motion_shift: Tensor
    gate: Tensor

    def leaves(self) -> tuple[Tensor, ...]:
        """The tensors, in the op's order."""
        return tuple(vars(self).values())


def cases(device: torch.device) -> Iterator[Case]:
    """Forward, backward and both of each op; then the motion's Linear and the norm together."""
    width, dtype = (5120, torch.bfloat16) if device.type == "cuda" else (1536, torch.float32)
    inputs = make_inputs(width, dtype, device)
    at = f"{TOKENS:,} x {width:,} {str(dtype).removeprefix('torch.')}"
    yield from _motion_cases(inputs, at)
    yield from _plain_cases(inputs, at)
    yield _with_linear(inputs, at)


def make_inputs(width: int, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Random inputs that want gradients."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype).requires_grad_()

    return Inputs(
        x=draw(1, TOKENS, width),
        time_scale=draw(1, width, dtype=torch.float32),
        time_shift=draw(1, width, dtype=torch.float32),
        motion_scale=draw(1, POSITIONS, width),
        motion_shift=draw(1, POSITIONS, width),
        gate=draw(width, dtype=torch.float32),
    )


def _motion_cases(inputs: Inputs, at: str) -> Iterator[Case]:
    def ours(*tensors: Tensor) -> Tensor:
        return madanorm(*tensors, frames=FRAMES)

    def twin(*tensors: Tensor) -> Tensor:
        return madanorm_reference(*tensors, frames=FRAMES, prefix=0, eps=EPS, form="adaln")

    forms = {
        "more4d": (ours, inputs.leaves()),
        "published, eager": (published, _repeated(inputs)),
        "ours, eager": (twin, inputs.leaves()),
        "ours, torch.compile": (torch.compile(twin), inputs.leaves()),
    } | _liger(inputs)  # fmt: skip
    problem = Problem(**vars(inputs), frames=FRAMES)
    goals = {"published, eager": 5.0 if inputs.x.device.type == "cpu" else 1.0, "ours, torch.compile": 1.0}
    yield from _three("madanorm", at, forms, problem, goals)


def _plain_cases(inputs: Inputs, at: str) -> Iterator[Case]:
    def twin(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        normed = functional.layer_norm(x.float(), x.shape[-1:], eps=EPS)
        return (normed * (1 + scale[:, None]) + shift[:, None]).to(x.dtype)

    leaves = inputs.leaves()[:3]
    forms = {
        "more4d": (modulated_norm, leaves),
        "eager": (twin, leaves),
        "torch.compile": (torch.compile(twin), leaves),
    } | _liger(inputs)  # fmt: skip
    problem = Problem(inputs.x, inputs.time_scale, inputs.time_shift, prefix=TOKENS)
    yield from _three("modulated_norm", at, forms, problem, {"torch.compile": 1.0})


def _with_linear(inputs: Inputs, at: str) -> Case:
    """The motion's Linear over SiLU(features), then the norm: of the distinct rows, and as published of every token."""
    width, dtype, device = inputs.x.shape[2], inputs.x.dtype, inputs.x.device
    generator = torch.Generator().manual_seed(1)
    linear = torch.nn.Linear(768, 2 * width, device=device, dtype=dtype).requires_grad_(False)
    features = torch.randn(1, POSITIONS, 768, generator=generator).to(device, dtype)
    repeated = features.repeat(1, FRAMES, 1)
    x, time_scale, time_shift, _, _, gate = (leaf.detach() for leaf in inputs.leaves())

    def ours() -> Tensor:
        scale, shift = linear(functional.silu(features)).chunk(2, dim=-1)
        return madanorm(x, time_scale, time_shift, scale, shift, gate, frames=FRAMES)

    def as_published() -> Tensor:
        scale, shift = linear(functional.silu(repeated)).chunk(2, dim=-1)
        return published(x, time_scale, time_shift, scale, shift, gate)

    def check() -> None:
        close(ours(), as_published())

    contenders: dict[str, Callable[[], object]] = {"more4d": ours, "published, eager": as_published}
    return Case(f"Linear + madanorm, forward, {at}", contenders, check, goals={"published, eager": 8.0})


def _three(
    op: str,
    at: str,
    forms: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]],
    problem: Problem,
    goals: dict[str, float],
) -> Iterator[Case]:
    """Forward, backward, and both."""
    dy = torch.randn_like(problem.x)

    def check() -> None:
        results = [_gradients(call, leaves, dy) for call, leaves in list(forms.values())[:3]]
        for other in results[1:]:
            for mine, theirs in zip(results[0], other, strict=True):
                close(mine, theirs if theirs.shape == mine.shape else theirs.unflatten(1, (FRAMES, -1)).sum(1))

    def forward(call: Callable[..., Tensor], leaves: tuple[Tensor, ...]) -> Callable[[], object]:
        detached = [leaf.detach() for leaf in leaves]
        return lambda: call(*detached)

    def backward(call: Callable[..., Tensor], leaves: tuple[Tensor, ...]) -> Callable[[], Callable[[], object]]:
        def prepare() -> Callable[[], object]:
            y = call(*leaves)
            return lambda: torch.autograd.grad(y, leaves, dy)

        return prepare

    def both(call: Callable[..., Tensor], leaves: tuple[Tensor, ...]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(call(*leaves), leaves, dy)

    moved = {"forward": forward_bytes(problem), "backward": backward_bytes(problem, programs_per_sample(problem))}
    moved["forward + backward"] = sum(moved.values())
    for kind, make in (("forward", forward), ("backward", backward), ("forward + backward", both)):
        contenders = {name: make(*form) for name, form in forms.items()}
        yield Case(f"{op}, {kind}, {at}", contenders, check, moved[kind], goals, prepared=kind == "backward")


def published(x: Tensor, time_scale: Tensor, time_shift: Tensor, scale: Tensor, shift: Tensor, gate: Tensor) -> Tensor:
    """The published order of operations, on scale and shift [B, L, D] that were made for every token."""
    normed = functional.layer_norm(x.float(), x.shape[-1:], eps=EPS)
    normed = normed * (1 + time_scale[:, None]) + time_shift[:, None]
    return (normed * (1 + gate * scale) + gate * shift).to(x.dtype)


def _repeated(inputs: Inputs) -> tuple[Tensor, ...]:
    x, time_scale, time_shift, scale, shift, gate = inputs.leaves()
    rows = (part.detach().repeat(1, FRAMES, 1).requires_grad_() for part in (scale, shift))
    return x, time_scale, time_shift, *rows, gate


def _liger(inputs: Inputs) -> dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]]:
    """Liger-Kernel's closest ops where it is installed: LayerNorm without modulation, and modulated RMSNorm."""
    if inputs.x.device.type != "cuda" or importlib.util.find_spec("liger_kernel") is None:
        return {}
    from liger_kernel.ops.layer_norm import LigerLayerNormFunction  # type: ignore[import-not-found]
    from liger_kernel.ops.modulated_rms_norm import LigerModulatedRMSNormFunction  # type: ignore[import-not-found]

    like = inputs.x.detach()[0, 0]
    weight, bias = torch.ones_like(like).requires_grad_(), torch.zeros_like(like).requires_grad_()

    def layer_norm(*tensors: Tensor) -> Tensor:
        return LigerLayerNormFunction.apply(*tensors, EPS)

    def modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return LigerModulatedRMSNormFunction.apply(x, None, scale, shift, EPS, 0.0, "llama", False)

    return {
        "Liger LayerNorm, not modulated": (layer_norm, (inputs.x, weight, bias)),
        "Liger modulated RMSNorm": (modulated, (inputs.x, inputs.time_scale, inputs.time_shift)),
    }


def _gradients(call: Callable[..., Tensor], leaves: tuple[Tensor, ...], dy: Tensor) -> tuple[Tensor, ...]:
    y = call(*leaves)
    return y.detach(), *torch.autograd.grad(y, leaves, dy)


def close(mine: Tensor, theirs: Tensor) -> None:
    """Fails where the difference is more than rounding explains."""
    limit = 1e-5 if mine.dtype is torch.float32 and theirs.dtype is torch.float32 else 1e-2
    error = ((mine.double() - theirs.double()).norm() / theirs.double().norm()).item()
    assert error <= limit, f"relative error {error:.1e} is above {limit:.0e}"
