"""torch's DataLoader over shards, stopped and resumed at any batch with any number of workers and ranks."""

import hashlib
from collections.abc import Callable, Iterator
from itertools import tee
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from more4d.data.sampler import BatchPlan, Position, bucket_numbers, rank_batches


class Shaped(Protocol):
    """A map-style dataset that knows its samples' ids and shapes [N, 3] without reading them."""

    @property
    def ids(self) -> list[str]: ...
    @property
    def shapes(self) -> NDArray[np.int32]: ...
    def __getitem__(self, i: int, /) -> Any: ...
    def __len__(self) -> int: ...


class ResumableLoader:
    """Batches for ever, epoch after epoch; `state_dict` says what was handed out, not what workers fetched ahead.

    `context` is how workers start: "fork", "spawn" or "forkserver". Raises what BatchPlan and rank_batches raise.
    """

    def __init__(
        self,
        dataset: Shaped,
        plan: BatchPlan,
        *,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
        context: str = "forkserver",
        collate: Callable[[list[Any]], Any] = list,
    ) -> None:
        self._dataset = dataset
        self._plan = plan
        self._rank, self._ranks = rank, ranks
        self._buckets = bucket_numbers(dataset.shapes)
        self._options: dict[str, Any] = {"collate_fn": collate, "num_workers": workers}
        if workers:
            self._options["multiprocessing_context"] = context
        self._identity = hashlib.sha256("\n".join(dataset.ids).encode()).hexdigest()
        self._position = Position()

    def __iter__(self) -> Iterator[Any]:
        shares = rank_batches(self._plan, self._buckets, self._position, rank=self._rank, ranks=self._ranks)
        positions, indices = tee(shares)
        loader = DataLoader(_as_torch(self._dataset), batch_sampler=(share for _, share in indices), **self._options)
        for (position, _), batch in zip(positions, loader, strict=False):
            self._position = position
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands, as JSON would have it."""
        return {"position": self._position.model_dump(), "plan": self._plan.model_dump(), "dataset": self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there at the next iteration. Raises ValueError where the samples or the plan are others."""
        if state["dataset"] != self._identity:
            raise ValueError("the run was stopped on other samples: resume it on the dataset it began with")
        if state["plan"] != self._plan.model_dump():
            raise ValueError(f"the run was stopped with {state['plan']}, and is resumed with {self._plan.model_dump()}")
        self._position = Position.model_validate(state["position"])


def _as_torch(dataset: Shaped) -> Dataset[Any]:
    # A map-style dataset is whatever has the two methods; torch's own class adds none.
    return dataset  # type: ignore[return-value]
