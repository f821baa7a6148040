"""A network sharded among ranks that do not exist: what the first of them would hold."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor

from more4d.training.distributed.fsdp import shard
from more4d.training.distributed.world import World


@contextmanager
def imagined_ranks(ranks: int) -> Iterator[World]:
    """The first of `ranks` ranks whose messages reach nobody. Raises ValueError within a training's process group."""
    # Registers the backend "fake".
    import torch.testing._internal.distributed.fake_pg as fake

    if distributed.is_initialized():
        raise ValueError("this process is in a process group already: plan in a process of its own")
    distributed.init_process_group("fake", rank=0, world_size=ranks, store=fake.FakeStore())
    try:
        yield World(0, ranks, torch.device("cpu"))
    finally:
        distributed.destroy_process_group()


def sharded_numbers(network: nn.Module, ranks: int) -> tuple[int, int]:
    """(trained, frozen) numbers of the first of `ranks` ranks once FSDP2 has sharded the network, which may be on meta."""
    with imagined_ranks(ranks) as world:
        shard(network, world, "bf16")
        held = {True: 0, False: 0}
        for parameter in network.parameters():
            assert isinstance(parameter, DTensor), "FSDP2 left a parameter whole"
            held[parameter.requires_grad] += parameter.to_local().numel()
    return held[True], held[False]
