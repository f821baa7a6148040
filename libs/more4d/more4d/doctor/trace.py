"""What running a network would take, counted operation by operation on tensors that hold no numbers."""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Floating-point operations (a multiply-add is two) and the peak of live bytes beside weights and inputs."""

    flops: int
    peak_bytes: int


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made within, as long as they live; `peak` is the most at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation and count what is new of its outputs: views and in-place results are not."""
        out = func(*args, **(kwargs or {}))
        given = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(out):
            if storage._cdata not in given and storage._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes()
                self.live += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata)
        self.peak = max(self.peak, self.live)
        return out

    def _free(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


@contextmanager
def without_numbers(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Networks and tensors made within have shapes alone, and are of this type unless they say otherwise."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            yield
    finally:
        torch.set_default_dtype(before)


def trace(run: Callable[[], Any]) -> Cost:
    """What `run` takes; call it within `without_numbers` for networks of any size."""
    with torch.no_grad(), LiveBytes() as memory, FlopCounterMode(display=False) as counter:
        run()
    return Cost(counter.get_total_flops(), memory.peak)


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    return (leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
