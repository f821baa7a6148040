"""Which sample comes when: a function of the seed and the epoch alone, so that any stop can be resumed exactly.

Shape letters: N samples, M batches, B samples a batch over all ranks.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field


class BatchPlan(BaseModel):
    """How an epoch is cut into batches. `batch` counts the samples of all ranks together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int = Field(gt=0)
    seed: int = Field(ge=0)

    def epoch(self, buckets_N: NDArray[np.integer[Any]], epoch: int) -> NDArray[np.int64]:
        """Sample positions [M, B] of the epoch: one permutation of all samples, each batch out of one bucket.

        A batch stands where its last sample stands in the permutation. The incomplete rest of each bucket sits this
        epoch out (left_out counts it). Raises ValueError where no bucket fills a batch.
        """
        order = np.random.default_rng([self.seed, epoch]).permutation(len(buckets_N))
        batches, ends = [], []
        for bucket in np.unique(buckets_N):
            places = np.flatnonzero(buckets_N[order] == bucket)
            whole = places[: len(places) // self.batch * self.batch].reshape(-1, self.batch)
            batches.append(order[whole])
            ends.append(whole[:, -1])
        if not sum(map(len, batches)):
            raise ValueError(
                f"no bucket of the {len(buckets_N)} samples fills a batch of {self.batch}: lower the batch"
            )
        return np.concatenate(batches)[np.argsort(np.concatenate(ends))].astype(np.int64)

    def left_out(self, buckets_N: NDArray[np.integer[Any]]) -> int:
        """How many samples an epoch leaves out, another choice every epoch."""
        return int(sum(count % self.batch for count in np.unique(buckets_N, return_counts=True)[1]))


class Position(BaseModel):
    """How far a run has read: `batches` of `epoch` were handed out. What it was read with must be the same again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int = Field(default=0, ge=0)
    batches: int = Field(default=0, ge=0)


def bucket_numbers(shapes_N3: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Numbers [N] that are equal where (frames, height, width) are: what can be stacked into one batch."""
    return np.unique(shapes_N3, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def rank_batches(
    plan: BatchPlan, buckets_N: NDArray[np.integer[Any]], position: Position, *, rank: int, ranks: int
) -> Iterator[tuple[Position, list[int]]]:
    """This rank's share of every batch after `position`, for ever, each with the position after it.

    Side by side, the shares of all ranks are the batch, whatever `ranks` is: a run stopped on four resumes on two.
    Raises ValueError where the batch does not divide among the ranks.
    """
    if not 0 <= rank < ranks or plan.batch % ranks:
        raise ValueError(f"rank {rank} of {ranks} has no equal share of batches of {plan.batch}: change the batch")
    share = plan.batch // ranks
    while True:
        batches = plan.epoch(buckets_N, position.epoch)
        for number in range(position.batches, len(batches)):
            after = Position(epoch=position.epoch, batches=number + 1)
            yield after, batches[number, rank * share : (rank + 1) * share].tolist()
        position = Position(epoch=position.epoch + 1)
