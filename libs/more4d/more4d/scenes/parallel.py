"""Scenes rendered in parallel processes, in the order of their seeds."""

import functools
import itertools
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

from more4d.scenes.movers import FOX_FILE
from more4d.scenes.render import RenderedScene, render_scene
from more4d.scenes.spec import SceneConfig
from more4d.scenes.world import sample_scene

_AHEAD = 4
"""Scenes in flight per worker: enough to keep it busy, few enough to stay small in memory."""


def render_scenes(
    seeds: Iterable[int],
    *,
    frames: int,
    height: int,
    width: int,
    config: SceneConfig | None = None,
    views: Sequence[str] = (),
    workers: int = 1,
    fox_file: Path = FOX_FILE,
) -> Iterator[RenderedScene]:
    """The scenes of the seeds, in order; the bytes do not depend on `workers`.

    Raises ValueError if `workers` is below 1, and what `render_scene` raises.
    """
    if workers < 1:
        raise ValueError(f"workers={workers}; at least 1 is needed")
    render = functools.partial(
        _render_seed,
        config=config or SceneConfig(),
        frames=frames,
        height=height,
        width=width,
        views=tuple(views),
        fox_file=fox_file,
    )
    if workers == 1:
        return map(render, seeds)
    return _in_processes(render, seeds, workers)


def _in_processes(
    render: "functools.partial[RenderedScene]", seeds: Iterable[int], workers: int
) -> Iterator[RenderedScene]:
    # A fork server: Embree's and torch's threads of this process would not survive a plain fork.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(workers, context, _leave_when_orphaned) as pool:
        remaining = iter(seeds)
        pending: deque[Future[RenderedScene]] = deque()
        try:
            for seed in itertools.islice(remaining, _AHEAD * workers):
                pending.append(pool.submit(render, seed))
            while pending:
                scene = pending.popleft().result()
                pending.extend(pool.submit(render, seed) for seed in itertools.islice(remaining, 1))
                yield scene
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _leave_when_orphaned() -> None:
    """Start a watch that ends this worker when the process that asked for it is killed."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _render_seed(
    seed: int,
    *,
    config: SceneConfig,
    frames: int,
    height: int,
    width: int,
    views: Sequence[str],
    fox_file: Path,
) -> RenderedScene:
    spec = sample_scene(seed, config)
    return render_scene(spec, frames=frames, height=height, width=width, views=views, fox_file=fox_file)
