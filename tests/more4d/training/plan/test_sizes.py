import pytest
from more4d.models.architectures import WAN_1_3B, WAN_14B
from more4d.models.lora import LoRASettings
from more4d.training.plan.shards import imagined_ranks, sharded_numbers
from more4d.training.plan.sizes import build_on_meta, preset_sizes, shard_numbers, sizes_of
from torch import distributed, nn


@pytest.mark.parametrize("lora", [None, LoRASettings()])
def test_fsdp2_gives_the_first_of_eight_ranks_of_1_3b_what_is_counted(lora: LoRASettings | None) -> None:
    network = build_on_meta(WAN_1_3B, "trajectories", lora)
    counted = sizes_of(network).shard(8)
    assert sharded_numbers(network, 8) == counted


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [4, 8, 32])
def test_fsdp2_gives_the_first_rank_of_14b_what_is_counted(ranks: int) -> None:
    network = build_on_meta(WAN_14B, "trajectories")
    assert sharded_numbers(network, ranks) == preset_sizes(WAN_14B, "trajectories").shard(ranks)


def test_numbers_are_those_of_the_published_networks() -> None:
    sizes = preset_sizes(WAN_14B, "trajectories")
    assert sizes.frozen == 0
    assert 16.5e9 < sizes.trained < 17.5e9
    assert sizes.outside + 40 * sizes.largest_block == sizes.trained
    adapter = preset_sizes(WAN_14B, "views", LoRASettings(rank=128))
    assert adapter.trained < 0.05 * adapter.frozen


def test_a_tensor_is_cut_by_rows_alone_and_the_first_rank_has_the_most() -> None:
    assert shard_numbers([(5, 7), (1, 9), (4,)], 2) == 3 * 7 + 9 + 2
    assert shard_numbers([(2, 3)], 8) == 3


def test_a_plan_is_not_made_inside_a_training() -> None:
    with imagined_ranks(2), pytest.raises(ValueError, match="plan in a process of its own"):
        sharded_numbers(nn.Linear(2, 2), 2)
    assert not distributed.is_initialized()
