"""What cannot be trained, said before any work is done, with what to change."""

from collections import Counter

import torch

from more4d.training.batches import part_places
from more4d.training.distributed.choose import chosen_strategy, transformers_of
from more4d.training.distributed.world import World
from more4d.training.objective import Objective
from more4d.training.settings import TrainSettings


def require_possible(objective: Objective, settings: TrainSettings, world: World) -> None:
    """Raises ValueError, naming the setting, where samples, ranks, device and strategy do not go together."""
    if objective.size < 1:
        raise ValueError("there are no samples to train on")
    part_places(settings.batch_size, world, settings.accumulate)
    _require_filled_buckets(objective)
    _require_precision(settings, world)
    _require_strategy(objective, settings, world)
    if not any(parameter.requires_grad for parameter in objective.module.parameters()):
        raise ValueError("no parameter is trained: the module is frozen")


def _require_filled_buckets(objective: Objective) -> None:
    if len(objective.buckets) != objective.size or len(objective.ids) != objective.size:
        counts = f"{len(objective.buckets)} buckets and {len(objective.ids)} ids"
        raise ValueError(f"{objective.size} samples came with {counts}: each sample has one of both")
    if twice := [name for name, count in Counter(objective.ids).items() if count > 1]:
        raise ValueError(f"{len(twice)} samples have an id that another has too, such as {twice[0]!r}")


def _require_precision(settings: TrainSettings, world: World) -> None:
    if settings.precision == "bf16" and world.device.type == "cuda" and not torch.cuda.is_bf16_supported():
        name = torch.cuda.get_device_name(world.device)
        raise ValueError(f"precision=bf16, which {name} does not compute in: set precision to fp32")


def _require_strategy(objective: Objective, settings: TrainSettings, world: World) -> None:
    name = chosen_strategy(settings, world.ranks)
    if name == "single" and world.ranks > 1:
        raise ValueError(f"strategy=single for {world.ranks} ranks: set it to auto, or start one process")
    sharded = name == "fsdp2" or name.startswith("zero")
    if sharded and settings.optimizer == "muon":
        raise ValueError(f"optimizer=muon needs whole matrices, strategy={name} cuts them: use adamw, or ddp")
    if name.startswith("zero") and settings.guard.skip_sigmas:
        raise ValueError(
            f"guard.skip_sigmas needs a step that can be left out, strategy={name} has none: use ddp or fsdp2"
        )
    if name.startswith("zero3") and settings.compile and transformers_of(objective.module):
        raise ValueError(f"compile=true with strategy={name}, whose hooks are inside the blocks: use fsdp2 or zero2")
