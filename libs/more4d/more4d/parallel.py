"""The same function over many items in processes, results in the items' order."""

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from typing import Any, TypeVar

import cv2
import torch
from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, label: str
) -> Iterator[Result]:
    """Results in the items' order, under a progress bar; an exception of `function` passes through.

    With one worker everything runs here. Otherwise `function` and the items must be picklable: they travel
    between this program's own processes. At most four results a worker wait to be taken.
    """
    total = len(items) if isinstance(items, Sized) else None
    with tqdm(total=total, desc=label, unit="item", mininterval=0.5) as bar:
        results = map(function, items) if workers <= 1 else _in_processes(function, items, workers)
        for result in results:
            bar.update()
            yield result


def _in_processes(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    # A fork server: forking this process would copy the locked thread pools of torch and OpenCV.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, _module(function)])
    waiting: deque[Future[Result]] = deque()
    with ProcessPoolExecutor(workers, context, _settle) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _module(function: Callable[..., Any]) -> str:
    """Where the function lives: the fork server imports it once for all workers."""
    return (function.func if isinstance(function, partial) else function).__module__


def _settle() -> None:
    """One thread a worker, and no worker outlives a parent that was killed."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
