"""Scenes rendered in parallel processes, in the order of their seeds."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from more4d.parallel import ordered_map
from more4d.scenes.movers import FOX_FILE
from more4d.scenes.render import RenderedScene, render_scene
from more4d.scenes.spec import SceneConfig
from more4d.scenes.world import sample_scene


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
    return ordered_map(render, seeds, workers=workers, label="rendered scenes")


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
