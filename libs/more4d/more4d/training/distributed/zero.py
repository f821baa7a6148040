"""DeepSpeed's ZeRO-2 and ZeRO-3: optimizer state (and, in the third stage, weights) in equal runs of numbers.

ZeRO keeps its own single-precision copy of what it trains. That copy is the state here: it is what is saved, averaged and
loaded, and the module's weights follow it.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, InitProcessGroupKwargs
from deepspeed.utils import safe_get_full_fp32_param
from torch import Tensor
from torch.optim import AdamW

from more4d.training.distributed.pieces import Read
from more4d.training.distributed.replicated import whole
from more4d.training.distributed.strategy import Held, LossModule, Strategy, load_held, tensors_of
from more4d.training.distributed.world import World
from more4d.training.draws import Draws
from more4d.training.objective import Objective

_MOMENTS = ("exp_avg", "exp_avg_sq")


def read_config(
    file: Path, *, stage: int, part_size: int, parts: int, precision: str, clip_norm: float
) -> dict[str, Any]:
    """DeepSpeed's settings of `file`, with what the training itself decides written in.

    Raises ValueError where the file is missing, is no JSON or sets what is not its to set.
    """
    if not file.is_file():
        raise ValueError(f"{file} is missing: the settings of DeepSpeed; give train.deepspeed_config")
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if (found := config.get("zero_optimization", {}).get("stage")) != stage:
        raise ValueError(f"{file} is for ZeRO stage {found}, the strategy wants stage {stage}")
    ours = {
        "train_micro_batch_size_per_gpu": part_size,
        "gradient_accumulation_steps": parts,
        "gradient_clipping": clip_norm,
        "bf16": {"enabled": precision == "bf16", "check_grad_overflow": True},
        "steps_per_print": 2**31,
        # torch's AdamW: the same numbers as without DeepSpeed.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if taken := sorted({"optimizer", "scheduler", *ours} & config.keys()):
        raise ValueError(f"{file} sets {', '.join(taken)}, which the training sets itself: take it out")
    return config | ours


def zero_accelerator(config: dict[str, Any], world: World) -> Accelerator:
    """An accelerator that prepares modules with DeepSpeed."""
    # Where it is set, accelerate leaves DeepSpeed aside without a word.
    os.environ.pop("ACCELERATE_USE_CPU", None)
    backend = InitProcessGroupKwargs(backend="nccl" if world.device.type == "cuda" else "gloo")
    return Accelerator(deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=config), kwargs_handlers=[backend])


class Zero(Strategy):
    """A DeepSpeed engine around the loss, in stage 2 or 3."""

    def __init__(
        self, world: World, objective: Objective, optimizer: AdamW, precision: str, accelerator: Accelerator, stage: int
    ) -> None:
        super().__init__(world, objective, precision)
        self._engine: Any = accelerator.prepare(LossModule(objective), optimizer)[0]
        self._zero: Any = self._engine.optimizer
        self._stage, self._inner = stage, optimizer
        self.optimizers = [optimizer]

    def _forward(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        return self._engine(batch, draws)

    def part(self, *, last: bool) -> AbstractContextManager[None]:
        """ZeRO sums gradients over ranks part by part; the last one ends the sum."""
        self._engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Through the engine; the loss was divided by the number of parts already."""
        self._engine.backward(loss, scale_wrt_gas=False)

    def clip(self, limit: float) -> float:
        """DeepSpeed clips and moves the weights in one: after this the step is done.

        Where the norm is not finite it moved nothing.
        """
        self._zero.clip_grad = limit
        self._engine.step()
        return float(self._engine.get_global_grad_norm() or 0.0)

    def step(self) -> None:
        """Done by `clip`."""

    def skip(self) -> None:
        """Nothing is left to forget: where the norm was not finite, DeepSpeed forgot the gradients."""

    def model(self) -> Iterator[Held]:
        """This rank's run of every trained parameter in single precision; what is frozen, and buffers, as they are."""
        for name, tensor in tensors_of(self.objective.module):
            yield from self._runs(f"model/{name}", tensor)

    def optimizer(self) -> Iterator[Held]:
        """This rank's runs of the moments, and the count of steps, which is one for all."""
        states = self._inner.state
        step = next((state["step"] for state in states.values() if "step" in state), None)
        if step is None:
            return
        for name, parameter in self._trained():
            yield whole(f"optimizer/{name}/step", step)
            for run in self._runs(f"optimizer/{name}", parameter):
                flat, first = self._place(parameter)
                for entry in _MOMENTS:
                    values = states[flat][entry].narrow(0, first, run.values.numel())
                    yield Held(f"{run.name}/{entry}", run.shape, run.start, values, everywhere=False)

    @torch.no_grad()
    def load_optimizer(self, names: Sequence[str], read: Read) -> None:
        """The runs that this rank needs, whoever saved them."""
        saved = [name for name in names if name.startswith("optimizer/")]
        if not saved:
            return
        step = read(next(name for name in saved if name.endswith("/step")), 0, 1).reshape(())
        for flat in self._flats():
            moments = {entry: torch.zeros_like(flat.detach()) for entry in _MOMENTS}
            self._inner.state[flat] = {"step": step.clone(), **moments}
        load_held((held for held in self.optimizer() if not held.name.endswith("/step")), read)

    def show(self) -> None:
        """Let the module's weights follow the single-precision copy."""
        for _, parameter in self._trained():
            if self._stage == 3:
                parameter.ds_tensor.data.copy_(self._master(parameter))
            else:
                parameter.data.copy_(cast(Tensor, safe_get_full_fp32_param(parameter)))
        if self._stage == 3 and (kept := self._zero.persistent_parameters):
            # Small tensors stay gathered: gather them anew.
            kept[0].partition(kept)
            kept[0].all_gather(kept)

    def _trained(self) -> Iterator[tuple[str, Any]]:
        return ((name, p) for name, p in self.objective.module.named_parameters() if p.requires_grad)

    def _runs(self, name: str, tensor: Any) -> Iterator[Held]:
        """What this rank holds of a tensor: nothing, where its run lies elsewhere."""
        if self._stage == 3 and hasattr(tensor, "ds_id"):
            start = self.world.rank * tensor.partition_numel()
            count = min(tensor.partition_numel(), tensor.ds_numel - start)
            values = self._master(tensor) if tensor.requires_grad else tensor.ds_tensor.detach().view(-1)
            if count > 0:
                yield Held(name, tuple(tensor.ds_shape), start, values[:count], everywhere=False)
        elif not getattr(tensor, "requires_grad", False):
            yield whole(name, tensor)
        elif (mapping := tensor._hp_mapping) is not None:
            start = mapping.lp_fragment_address.start
            yield Held(name, tuple(tensor.shape), start, mapping.hp_fragment.detach(), everywhere=False)

    def _master(self, parameter: Any) -> Tensor:
        """The single-precision copy of this rank's run, padded to the length of all runs; the third stage's."""
        flat, first = self._place(parameter)
        return flat.detach().narrow(0, first, parameter.partition_numel())

    def _place(self, parameter: Any) -> tuple[Tensor, int]:
        """(the flat tensor that holds this rank's run of a parameter, where it begins there)."""
        if self._stage == 3:
            group, first, _ = self._zero.grad_position[self._zero.get_param_id(parameter)]
            return self._zero.fp32_partitioned_groups_flat[group], first
        mapping = parameter._hp_mapping
        return self._flats()[mapping.param_group_index], mapping.hp_fragment_address.start

    def _flats(self) -> list[Tensor]:
        zero = self._zero
        return zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups
