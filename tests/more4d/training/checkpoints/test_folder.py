from random import Random

from hypothesis import given
from hypothesis import strategies as some
from more4d.training.checkpoints import CheckpointSettings
from more4d.training.checkpoints.folder import kept_steps


@given(
    steps=some.sets(some.integers(0, 60), min_size=1),
    last=some.integers(1, 5),
    every=some.integers(0, 20),
    chosen=some.randoms(use_true_random=False),
)
def test_what_was_just_saved_the_best_the_newest_and_round_steps_stay_and_no_others(
    steps: set[int], last: int, every: int, chosen: Random
) -> None:
    newest, best = chosen.choice(sorted(steps)), chosen.choice([None, *sorted(steps)])
    kept = kept_steps(steps, newest, best, CheckpointSettings(keep_last=last, keep_every=every))
    before = sorted(step for step in steps if step <= newest)
    round_steps = {step for step in steps if every and step % every == 0}
    assert newest in kept and kept >= set(before[-last:]) | round_steps | ({best} - {None})
    assert kept - {best} - round_steps <= set(before[-last:])
