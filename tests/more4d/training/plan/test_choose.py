import pytest
from more4d.models.architectures import WAN_14B
from more4d.training.plan.activations import activation_sizes
from more4d.training.plan.choose import GB, HEADROOM, Training, best_fit, parts, require_fit, smallest
from more4d.training.plan.memory import Plan
from more4d.training.plan.sizes import preset_sizes

BATCH = 32
STRAG = Training(preset_sizes(WAN_14B, "trajectories"), activation_sizes(WAN_14B, "trajectories"), BATCH)


def test_14b_trains_whole_on_four_gpus_of_80_gb_with_offloading_and_of_141_without() -> None:
    small, large = (best_fit(STRAG, 4, memory * GB) for memory in (80, 141))
    assert small is not None and small.plan.strategy == "zero3-offload"
    assert large is not None and large.plan.strategy == "fsdp2"


@pytest.mark.parametrize("ranks", [4, 8, 32])
@pytest.mark.parametrize("memory_gb", [80, 141])
def test_what_is_chosen_fits_and_makes_the_whole_batch(ranks: int, memory_gb: int) -> None:
    fit = best_fit(STRAG, ranks, memory_gb * GB)
    assert fit is not None
    assert fit.memory.device <= HEADROOM * memory_gb * GB
    assert fit.plan.part_size * fit.accumulate * ranks == BATCH
    assert require_fit(STRAG, fit.plan, memory_gb * GB) == fit.memory


def test_what_cannot_fit_is_refused_with_what_would() -> None:
    with pytest.raises(
        ValueError, match=r"needs .* GB on each of 8 GPUs \(weights .*set strategy=fsdp2, recompute=full"
    ):
        require_fit(STRAG, Plan("ddp", 8), 80 * GB)
    with pytest.raises(ValueError, match="no strategy fits; train an adapter"):
        require_fit(STRAG, Plan("fsdp2", 4), 8 * GB)


def test_offloading_is_advised_with_what_it_takes_of_the_host() -> None:
    with pytest.raises(
        ValueError, match=r"set strategy=zero3-offload, .* and \d+\.\d GB of the host's memory for each"
    ):
        require_fit(STRAG, Plan("single", 1), 24 * GB)


def test_a_larger_gpu_recomputes_less() -> None:
    order = ("none", "selective", "full")
    chosen = [best_fit(STRAG, 8, memory * GB) for memory in (80, 141, 400)]
    places = [order.index(fit.plan.recompute) for fit in chosen if fit]
    assert places == sorted(places, reverse=True) and len(set(places)) == 3


def test_nothing_holds_less_than_the_smallest() -> None:
    assert best_fit(STRAG, 4, GB) is None
    least = smallest(STRAG, 4)
    assert least.plan.part_size == 1
    assert least.memory.device < STRAG.memory(Plan("fsdp2", 4, "full")).device


def test_a_batch_is_divided_in_whole_parts_or_not_at_all() -> None:
    assert parts(12, 2) == [(6, 1), (3, 2), (2, 3), (1, 6)]
    with pytest.raises(ValueError, match="a batch of 6 cannot be divided among 4 ranks"):
        parts(6, 4)
