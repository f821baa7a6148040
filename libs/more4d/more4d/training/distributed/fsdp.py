"""FSDP2: torch's `fully_shard` on every transformer block and on what is around them; each rank holds rows of each tensor."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.optim import Optimizer

from more4d.training.distributed.pieces import Read
from more4d.training.distributed.replicated import whole
from more4d.training.distributed.strategy import Held, Strategy, tensors_of
from more4d.training.distributed.world import World
from more4d.training.objective import Objective
from more4d.training.optimizers import owner


def shard(module: nn.Module, world: World, precision: str) -> None:
    """Shard a module in place: each block of a transformer by itself, gathered when it is called; its roots.

    A ModuleDict is never called: each of its members is a root. Gathered weights are bfloat16 where `precision` says so,
    gradients are summed in float32.
    """
    mesh = init_device_mesh(world.device.type, (world.ranks,))
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bf16" else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    roots = list(module.values()) if isinstance(module, nn.ModuleDict) else [module]
    for root in roots:
        for block in (b for name, part in root.named_modules() if _is_block_list(name, part) for b in part.children()):
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(root, mesh=mesh, mp_policy=policy)


def _is_block_list(name: str, part: nn.Module) -> bool:
    return isinstance(part, nn.ModuleList) and name.rsplit(".", 1)[-1] == "blocks"


class FullySharded(Strategy):
    """Weights, gradients and optimizer state in shards; a block's weights are gathered while it runs.

    Gradients are exchanged at every part: kept whole until the last one they would fill the memory that shards save.
    """

    def __init__(
        self,
        world: World,
        objective: Objective,
        optimizers: Sequence[Optimizer],
        precision: str,
    ) -> None:
        super().__init__(world, objective, precision)
        self.optimizers = optimizers

    def clip(self, limit: float) -> float:
        """Scale the gradient down to `limit` at once; its norm is taken over all shards."""
        norm = torch.nn.utils.clip_grad_norm_(self.objective.module.parameters(), limit)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def step(self) -> None:
        """Move this rank's shards."""
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def model(self) -> Iterator[Held]:
        """This rank's rows of every parameter; buffers whole."""
        for name, tensor in tensors_of(self.objective.module):
            yield _held(f"model/{name}", tensor)

    def optimizer(self) -> Iterator[Held]:
        """This rank's rows of the moments."""
        names: dict[Tensor, str] = {p: name for name, p in self.objective.module.named_parameters()}
        for optimizer in self.optimizers:
            for parameter, state in optimizer.state.items():
                for entry, value in state.items():
                    yield _held(f"optimizer/{names[parameter]}/{entry}", value)

    @torch.no_grad()
    def load_optimizer(self, names: Sequence[str], read: Read) -> None:
        """The rows that this rank needs, whoever saved them."""
        parameters = dict(self.objective.module.named_parameters())
        for name in names:
            if name.startswith("optimizer/"):
                key, entry = name.removeprefix("optimizer/").rsplit("/", 1)
                parameter = parameters[key]
                owner(self.optimizers, parameter).state[parameter][entry] = _entry(name, entry, parameter, read)


def _held(name: str, tensor: Tensor) -> Held:
    if not isinstance(tensor, DTensor):
        return whole(name, tensor)
    local, start = _rows(tensor)
    return Held(name, tuple(tensor.shape), start, local.view(-1), everywhere=False)


def _rows(tensor: DTensor) -> tuple[Tensor, int]:
    """(this rank's part, the place of its first number in the flattened tensor)."""
    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    local = tensor.to_local().detach()
    row = tensor.numel() // tensor.shape[0] if tensor.numel() else 1
    return local, min(offset[0] * row, tensor.numel()) if local.numel() else 0


def _entry(name: str, entry: str, parameter: Tensor, read: Read) -> Tensor:
    if entry == "step":
        return read(name, 0, 1).reshape(())
    assert isinstance(parameter, DTensor)
    local, start = _rows(parameter)
    values = read(name, start, local.numel()).reshape(local.shape).to(local)
    return DTensor.from_local(
        values, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
    )
