"""Which sample comes when: a function of the seed and the step alone, so that any stop can be resumed exactly.

Shape letters: B samples of a global batch.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch


def step_seed(seed: int, step: int) -> int:
    """A seed for step `step`, far from those of its neighbours and of other runs."""
    return (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + 1) % 2**63


class Order:
    """The sample numbers of every step's global batch, each batch out of one bucket of `buckets`, one number a sample.

    Within its bucket every sample is seen once before any is seen again: batches go on over the end of an epoch, so none is
    left out. Buckets take turns in proportion to their sizes.
    """

    def __init__(self, buckets: Sequence[int], batch_size: int, seed: int) -> None:
        members: dict[int, list[int]] = {}
        for number, bucket in enumerate(buckets):
            members.setdefault(bucket, []).append(number)
        if not members:
            raise ValueError("there are no samples to train on")
        self._members = [members[name] for name in sorted(members)]
        self._batch_size, self._seed = batch_size, seed
        self._turns: list[tuple[int, int]] = []
        self._coming = _alternate([len(each) for each in self._members])

    def batch(self, step: int) -> list[int]:
        """Sample numbers [B] of step `step`."""
        bucket, turn = self._turn(step)
        members, size = self._members[bucket], len(self._members[bucket])
        seed = self._seed if bucket == 0 else step_seed(self._seed, 2**40 + bucket)
        places = range(turn * self._batch_size, (turn + 1) * self._batch_size)
        return [members[_permutation(size, seed, place // size)[place % size]] for place in places]

    def _turn(self, step: int) -> tuple[int, int]:
        """(the bucket of a step, how many of the bucket's batches came before it)."""
        while len(self._turns) <= step:
            self._turns.append(next(self._coming))
        return self._turns[step]


def _alternate(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(bucket, its batches before) for ever: next comes the bucket that has waited longest for its share."""
    taken, total = [0] * len(sizes), sum(sizes)
    for step in range(2**63):
        # In whole numbers: the same on every machine.
        chosen = max(range(len(sizes)), key=lambda bucket: (step + 1) * sizes[bucket] - taken[bucket] * total)
        yield chosen, taken[chosen]
        taken[chosen] += 1


@lru_cache(maxsize=16)
def _permutation(size: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(step_seed(seed, -1 - epoch))
    return torch.randperm(size, generator=generator).tolist()
