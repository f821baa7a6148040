"""Compiled CPU loops on plain threads.

Plain threads instead of numba's parallel loops: those abort a process that was forked after their first use, or that
calls them from two Python threads.
"""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import torch


def spread(work: Callable[..., None], count: int, arguments: tuple[Any, ...], *, stretches: int) -> None:
    """Call `work(start, stop, *arguments)` on `stretches` stretches of range(count), by as many threads as torch uses.

    `work` must release the GIL. The cuts depend on `count` and `stretches` alone, never on the number of threads, so
    what is summed stretch by stretch has the same bytes on any machine. Raises what `work` raises.
    """
    cuts = [count * part // stretches for part in range(stretches + 1)]
    left = deque((start, stop) for start, stop in zip(cuts[:-1], cuts[1:], strict=True) if stop > start)

    def take() -> None:
        while left:
            try:
                start, stop = left.popleft()
            except IndexError:
                return
            work(start, stop, *arguments)

    helpers = [_pool(os.getpid()).submit(take) for _ in range(min(torch.get_num_threads(), len(left)) - 1)]
    try:
        take()
    finally:
        # After an error nothing more is begun, and nobody returns while `work` still writes to the arguments.
        left.clear()
        begun = [helper for helper in helpers if not helper.cancel()]
        wait(begun)
    for helper in begun:
        helper.result()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """The threads of this process: a forked child has none of its parent's."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix=f"more4d-{process}")
