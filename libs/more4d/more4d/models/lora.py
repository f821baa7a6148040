"""LoRA for the transformers: adapters through peft, files in kohya's names, merging into the weights.

Shapes: R rank, I inputs of a linear layer, O its outputs. A layer goes by our name, such as `blocks.0.attn1.to_q`; in a
file it goes by Wan's own, with underscores for dots: `lora_unet__blocks_0_self_attn_q`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from more4d.models.conversion import CheckpointError, rename
from more4d.models.conversion.names import listed
from more4d.settings import Section

PUBLISHED_WEIGHT = 0.55
"""How much of the published 4D-ViSM LoRA is merged into its base."""
_DOWN, _UP, _ALPHA = "lora_down.weight", "lora_up.weight", "alpha"

_NOT_WANS = {"motion1", "motion2", "base_layer", "lora_A", "lora_B"}
"""Parts of the names of linear layers that Wan does not have: 4D-STraG's own, and what peft puts around a layer."""


class LoRASettings(Section):
    """Size and reach of a new adapter; the defaults are the published ones."""

    rank: int = Field(default=128, gt=0)
    alpha: float = Field(default=64.0, gt=0)
    blocks_only: bool = False
    """Leave the embeddings and the output layer as they are; the published adapter is on every linear layer."""
    targets: tuple[str, ...] = ()
    """Linear layers by a part of their names, such as `attn1` or `blocks.3`; without any, all that Wan has too."""
    also: tuple[str, ...] = ()
    """Modules by a part of their names that are trained whole beside the adapter: what the base never learned."""
    merge_weight: float = Field(default=1.0, gt=0)
    """How much of the adapter is merged when the training is over; published: 0.55."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """What one linear layer's weight [O, I] changes by: alpha / rank · up [O, R] @ down [R, I].

    Raises CheckpointError where the two share no rank.
    """

    down: Tensor
    up: Tensor
    alpha: float

    def __post_init__(self) -> None:
        if self.down.ndim != 2 or self.up.ndim != 2 or not self.up.shape[1] == self.down.shape[0] > 0:
            raise CheckpointError(f"lora_down {list(self.down.shape)} and lora_up {list(self.up.shape)} share no rank")

    @property
    def rank(self) -> int:
        """Rows of `down`, columns of `up`."""
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs of the layer that it fits."""
        return self.up.shape[0], self.down.shape[1]

    def change(self, like: Tensor) -> Tensor:
        """The change [O, I] on the device of the weight `like`, in its precision but at least float32."""
        precise = torch.promote_types(like.dtype, torch.float32)
        return self.up.to(like.device, precise) @ self.down.to(like.device, precise) * (self.alpha / self.rank)


LoRA = Mapping[str, LowRank]
"""The changes by our module names."""


def kohya_names(network: WanTransformer3DModel) -> dict[str, str]:
    """Our name of every linear layer that Wan has too, by its name in a LoRA file."""
    ours = list(_linears(network))
    published = rename("vism_lora", [f"{name}.{_ALPHA}" for name in ours], back=True)
    return {published[f"{name}.{_ALPHA}"].removesuffix(f".{_ALPHA}"): name for name in ours}


def read_lora(file: Path, network: WanTransformer3DModel) -> dict[str, LowRank]:
    """The changes that a kohya-named safetensors file holds for `network`; without an alpha it is the rank.

    A file may leave layers out. Raises CheckpointError naming the keys, shapes and ranks that do not fit.
    """
    names, parts = kohya_names(network), _parts(file)
    if unknown := sorted(set(parts) - set(names)):
        raise CheckpointError(f"{file}: {type(network).__name__} has no layer for {listed(unknown)}")
    if incomplete := sorted(n for n, part in parts.items() if not {_DOWN, _UP} <= part.keys()):
        raise CheckpointError(f"{file}: {_DOWN} or {_UP} is missing for {listed(incomplete)}")
    lora: dict[str, LowRank] = {}
    for name, part in parts.items():
        try:
            lora[names[name]] = LowRank(part[_DOWN], part[_UP], _alpha(part))
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {name}: {error}") from error
    _require_fit(lora, network)
    return lora


def write_lora(lora: LoRA, file: Path, network: WanTransformer3DModel, *, dtype: torch.dtype | None = None) -> None:
    """Write the changes for `network` under kohya's names, in `dtype` where one is given.

    Raises CheckpointError naming what does not fit the network.
    """
    _require_fit(lora, network)
    names = {ours: kohya for kohya, ours in kohya_names(network).items()}
    tensors: dict[str, Tensor] = {}
    for name, low in lora.items():
        stored = {_DOWN: low.down, _UP: low.up, _ALPHA: torch.tensor(float(low.alpha), dtype=low.up.dtype)}
        tensors |= {f"{names[name]}.{k}": v.detach().to("cpu", dtype).contiguous() for k, v in stored.items()}
    save_file(tensors, file)


@torch.no_grad()
def merge(network: WanTransformer3DModel, lora: LoRA, weight: float = PUBLISHED_WEIGHT) -> None:
    """Add `weight` times the changes to the network's weights, in their dtype and with float32 arithmetic.

    Merging again adds again. Raises CheckpointError, with nothing changed, where the changes do not fit.
    """
    _require_fit(lora, network)
    linears = _linears(network)
    for name, low in lora.items():
        target = linears[name].weight
        target.copy_(low.change(target).mul_(weight).add_(target))


def unmerge(network: WanTransformer3DModel, lora: LoRA, weight: float = PUBLISHED_WEIGHT) -> None:
    """Take back what `merge` with the same `weight` added; what half precision rounded away does not come back."""
    merge(network, lora, -weight)


def add_adapter(network: WanTransformer3DModel, settings: LoRASettings, *, name: str = "default") -> None:
    """Put an adapter of peft on linear layers that Wan has too: identity at first, and with `also` all that is trainable.

    Raises ValueError, with nothing changed, naming the modules that there are where one of the settings' is not.
    """
    targets = adapter_targets(network, settings)
    whole = [p for module, p in network.named_parameters() if any(_part_of(part, module) for part in settings.also)]
    network.add_adapter(LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=targets), name)  # type: ignore[arg-type]
    for parameter in whole:
        parameter.requires_grad_(True)


def adapter_targets(network: WanTransformer3DModel, settings: LoRASettings) -> list[str]:
    """The linear layers that an adapter of these settings is put on. Raises ValueError as `add_adapter` does."""
    layers = list(_linears(network))
    _require_parts(network, "targets", settings.targets, layers)
    _require_parts(network, "also", settings.also, [name for name, _ in network.named_modules() if name])
    chosen = [name for name in layers if name.startswith("blocks.") or not settings.blocks_only]
    if settings.targets:
        chosen = [name for name in chosen if any(_part_of(part, name) for part in settings.targets)]
    chosen = [name for name in chosen if not any(_part_of(part, name) for part in settings.also)]
    if not chosen:
        raise ValueError(
            f"lora.targets={list(settings.targets)} leaves no layer to adapt; name fewer in also, or more here"
        )
    return chosen


def _part_of(part: str, name: str) -> bool:
    """Whether `part` is one or more whole steps of a dotted name."""
    return f".{part}." in f".{name}."


def _require_parts(network: nn.Module, setting: str, parts: Iterable[str], names: list[str]) -> None:
    for part in parts:
        if not any(_part_of(part, name) for name in names):
            known = sorted({step for name in names for step in name.split(".") if not step.isdigit()})
            raise ValueError(
                f"lora.{setting} names {part!r}, which {type(network).__name__} has not; there are {', '.join(known)}"
            )


def load_adapter(network: WanTransformer3DModel, lora: LoRA, *, name: str = "default") -> None:
    """Put the changes beside the network's weights as a trainable adapter of peft, with the scale alpha / rank.

    Raises CheckpointError naming what does not fit the network.
    """
    _require_fit(lora, network)
    network.add_adapter(_config(lora), name)
    for module, low in lora.items():
        down, up = _factors(network.get_submodule(module), name)
        down.data.copy_(low.down)
        up.data.copy_(low.up)


def adapter_changes(network: WanTransformer3DModel, *, name: str = "default") -> dict[str, LowRank]:
    """The changes that an adapter stands for, to write or to merge. Raises CheckpointError when there is none of that name."""
    changes: dict[str, LowRank] = {}
    for module in _linears(network):
        layer = network.get_submodule(module)
        if isinstance(layer, LoraLayer) and name in layer.lora_alpha:
            down, up = _factors(layer, name)
            changes[module] = LowRank(down.detach(), up.detach(), layer.lora_alpha[name])
    if not changes:
        raise CheckpointError(f"the network has no adapter {name!r}; put one on it with add_adapter")
    return changes


def adapter_of(weights: Mapping[str, Tensor], alpha: float, *, name: str = "default") -> dict[str, LowRank]:
    """The changes in the state dict of a network with an adapter. Raises CheckpointError when there is none of that name."""
    end = f".lora_A.{name}.weight"
    layers = [key.removesuffix(end) for key in weights if key.endswith(end)]
    if not layers:
        raise CheckpointError(f"the weights hold no adapter {name!r}")
    return {layer: LowRank(weights[layer + end], weights[f"{layer}.lora_B.{name}.weight"], alpha) for layer in layers}


@torch.no_grad()
def without_adapter(
    weights: Mapping[str, Tensor], lora: LoRA | None = None, weight: float = PUBLISHED_WEIGHT
) -> dict[str, Tensor]:
    """The state dict of the network itself from that of a network with adapters, `weight` times `lora` added to it."""
    own = {key: value for key, value in weights.items() if not {"lora_A", "lora_B"} & set(key.split("."))}
    plain = {key.replace(".base_layer.", "."): value for key, value in own.items()}
    for name, low in (lora or {}).items():
        before = plain[f"{name}.weight"]
        plain[f"{name}.weight"] = low.change(before).mul_(weight).add_(before).to(before.dtype)
    return plain


def _linears(network: WanTransformer3DModel) -> dict[str, nn.Linear]:
    """Every linear layer that Wan has too, by its name without adapters."""
    found: dict[str, nn.Linear] = {}
    for name, module in network.named_modules():
        base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if isinstance(base, nn.Linear) and _NOT_WANS.isdisjoint(name.split(".")):
            found[name] = base
    return found


def _factors(layer: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """The adapter's down [R, I] and up [O, R] of a layer that has one."""
    down, up = (layer.get_submodule(f"{part}.{name}").weight for part in ("lora_A", "lora_B"))
    assert isinstance(down, Tensor) and isinstance(up, Tensor)
    return down, up


def _config(lora: LoRA) -> LoraConfig:
    """Peft's description of the changes: the commonest rank and alpha, and the layers that have others."""
    ranks, alphas = ({name: getattr(low, kind) for name, low in lora.items()} for kind in ("rank", "alpha"))
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(lora),
        # Anchored: peft would read `proj_out` as the end of any name.
        rank_pattern={f"^{name}": own for name, own in ranks.items() if own != rank},
        alpha_pattern={f"^{name}": own for name, own in alphas.items() if own != alpha},
    )


def _parts(file: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of every layer in a file, by the layer's and then the tensor's name."""
    if not file.is_file():
        raise CheckpointError(f"LoRA file {file} is missing")
    try:
        stored = load_file(file)
    except SafetensorError as error:
        raise CheckpointError(f"{file} is not a readable safetensors file: {error}") from error
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in stored.items():
        layer, _, kind = key.partition(".")
        parts.setdefault(layer, {})[kind] = value
    foreign = [key for key in stored if key.partition(".")[2] not in (_DOWN, _UP, _ALPHA)]
    if foreign or not parts:
        raise CheckpointError(
            f"{file} is no kohya-named LoRA: its keys must be lora_unet__<layer>.lora_down.weight, .lora_up.weight and "
            f".alpha, not {listed(sorted(foreign)) if foreign else 'none at all'}"
        )
    return parts


def _alpha(part: Mapping[str, Tensor]) -> float:
    if _ALPHA not in part:
        return float(part[_DOWN].shape[0])
    if part[_ALPHA].numel() != 1:
        raise CheckpointError(f"alpha must be one number, not {list(part[_ALPHA].shape)}")
    return float(part[_ALPHA])


def _require_fit(lora: LoRA, network: WanTransformer3DModel) -> None:
    linears = _linears(network)
    problems = [] if lora else ["it has no layer at all"]
    problems += [f"no layer {name}" for name in lora if name not in linears]
    problems += [
        f"{name} has a weight of {list(linears[name].weight.shape)}, its LoRA fits {list(low.shape)}"
        for name, low in lora.items()
        if name in linears and low.shape != tuple(linears[name].weight.shape)
    ]
    if problems:
        raise CheckpointError(f"the LoRA does not fit {type(network).__name__}: {listed(problems)}")
