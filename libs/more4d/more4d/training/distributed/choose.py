"""The strategy of a training's settings, ready to train."""

from pathlib import Path
from typing import cast

from accelerate import Accelerator
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn
from torch.optim import AdamW, Optimizer

from more4d.models.recompute import compile_blocks, recompute
from more4d.training.batches import part_places
from more4d.training.distributed.fsdp import FullySharded, shard
from more4d.training.distributed.replicated import Replicated
from more4d.training.distributed.strategy import Strategy
from more4d.training.distributed.world import World
from more4d.training.distributed.zero import Zero, read_config, zero_accelerator
from more4d.training.objective import Objective
from more4d.training.optimizers import OptimizerSettings, build_optimizers
from more4d.training.settings import StrategyName, TrainSettings

CONFIGS = Path("infra/deepspeed")


def chosen_strategy(settings: TrainSettings, ranks: int) -> StrategyName:
    """What "auto" means for so many ranks."""
    if settings.strategy != "auto":
        return settings.strategy
    return "single" if ranks == 1 else "ddp"


def build_strategy(objective: Objective, settings: TrainSettings, world: World, root: Path) -> Strategy:
    """The objective's module under the strategy that the settings choose, on the world's device.

    Paths in the settings are taken from `root`. Raises ValueError where a file of settings is missing or unfit.
    """
    name = chosen_strategy(settings, world.ranks)
    _prepare_blocks(objective.module, settings)
    for network in (objective.module, *objective.frozen):
        network.to(world.device)
    if name == "fsdp2":
        shard(objective.module, world, settings.precision)
        return FullySharded(world, objective, _optimizers(objective, settings), settings.precision)
    if name.startswith("zero"):
        return _zero(name, objective, settings, world, root)
    accelerator = Accelerator(cpu=world.device.type == "cpu")
    return Replicated(world, objective, _optimizers(objective, settings), settings.precision, accelerator)


def _prepare_blocks(module: nn.Module, settings: TrainSettings) -> None:
    for network in transformers_of(module):
        recompute(network, settings.recompute)
        if settings.compile:
            compile_blocks(network)


def transformers_of(module: nn.Module) -> list[WanTransformer3DModel]:
    """The transformers in a module, itself among them."""
    return [part for part in module.modules() if isinstance(part, WanTransformer3DModel)]


def _zero(name: StrategyName, objective: Objective, settings: TrainSettings, world: World, root: Path) -> Zero:
    stage = int(name.removeprefix("zero")[0])
    file = root / (settings.deepspeed_config or CONFIGS / f"{name}.json")
    part_size = len(part_places(settings.batch_size, world, settings.accumulate)[0])
    config = read_config(
        file,
        stage=stage,
        part_size=part_size,
        parts=settings.accumulate,
        precision=settings.precision,
        clip_norm=settings.clip_norm,
    )
    optimizer = cast(AdamW, _optimizers(objective, settings)[0])
    return Zero(world, objective, optimizer, settings.precision, zero_accelerator(config, world), stage)


def _optimizers(objective: Objective, settings: TrainSettings) -> list[Optimizer]:
    chosen = OptimizerSettings(
        name=settings.optimizer,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        betas=settings.betas,
        eps=settings.eps,
        factors=objective.learning_rates,
    )
    return build_optimizers(objective.module, chosen)
