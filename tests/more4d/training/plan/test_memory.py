import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from more4d.models.architectures import WAN_14B
from more4d.models.lora import LoRASettings
from more4d.training.plan.activations import activation_sizes
from more4d.training.plan.memory import STRATEGIES, Memory, Plan, Strategy, memory_of
from more4d.training.plan.sizes import preset_sizes

SIZES = preset_sizes(WAN_14B, "trajectories")
ACTIVATIONS = activation_sizes(WAN_14B, "trajectories")


def memory(strategy: Strategy, ranks: int = 8) -> Memory:
    """Of the 14B network in bfloat16 with full recomputation."""
    return memory_of(SIZES, ACTIVATIONS, Plan(strategy, ranks, "full"))


def test_state_of_mixed_precision_is_16_bytes_a_number_and_zero_halves_nothing_of_it() -> None:
    assert memory("single").state == pytest.approx(16 * SIZES.trained)
    assert memory("fsdp2").state * 8 == pytest.approx(16 * SIZES.trained, rel=1e-3)
    assert memory("zero3").state * 8 == pytest.approx(20 * SIZES.trained, rel=1e-3)
    assert memory("zero2").state == pytest.approx((2 + 18 / 8) * SIZES.trained, rel=1e-3)


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_offloading_moves_bytes_to_the_host_and_loses_none(strategy: Strategy) -> None:
    here, there = memory(strategy), memory(f"{strategy}-offload")  # type: ignore[arg-type]
    assert there.state + there.host == here.state
    assert there.device < here.device and here.host == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_average_and_larger_parts_cost_memory(strategy: Strategy) -> None:
    plan = Plan(strategy, 8, "full")
    plain, averaged, two = (
        memory_of(SIZES, ACTIVATIONS, each) for each in (plan, replace(plan, average=True), replace(plan, part_size=2))
    )
    assert averaged.device + averaged.host > plain.device + plain.host
    assert two.activations == 2 * plain.activations


def test_frozen_weights_have_neither_gradients_nor_moments() -> None:
    lora = preset_sizes(WAN_14B, "views", LoRASettings())
    found = memory_of(lora, ACTIVATIONS, Plan("ddp", 8))
    assert found.gradients == 8 * lora.trained and found.optimizer == 8 * lora.trained
    assert found.weights == 4 * (lora.trained + lora.frozen)


@pytest.mark.parametrize("strategy", ["fsdp2", "zero2", "zero3"])
@pytest.mark.slow
def test_two_real_ranks_hold_what_is_counted(strategy: Strategy, tmp_path: Path) -> None:
    script = Path(__file__).with_name("memory_ranks.py")
    command = [sys.executable, str(script), strategy, str(tmp_path / "store")]
    ranks = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(2)]
    outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    found = json.loads(outputs[0].splitlines()[-1])
    assert found["held"] == pytest.approx(found["counted"], rel=0.02)
