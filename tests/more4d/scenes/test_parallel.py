from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from more4d.scenes import RenderedScene, render_scenes


def render(seeds: range, workers: int, fox_file: Path) -> Iterator[RenderedScene]:
    return render_scenes(seeds, frames=5, height=32, width=48, workers=workers, fox_file=fox_file)


def test_the_number_of_workers_changes_neither_order_nor_bytes(fox_file: Path) -> None:
    seeds = range(10, 20)
    for alone, shared in zip(render(seeds, 1, fox_file), render(seeds, 2, fox_file), strict=True):
        assert alone.seed == shared.seed and alone.caption == shared.caption
        np.testing.assert_array_equal(alone.video, shared.video)
        np.testing.assert_array_equal(alone.points, shared.points)
        np.testing.assert_array_equal(alone.visibility, shared.visibility)


def test_an_endless_stream_of_seeds_can_be_left_early(fox_file: Path) -> None:
    def seeds() -> Iterator[int]:
        yield from range(10**9)

    stream = render_scenes(seeds(), frames=5, height=32, width=48, workers=2, fox_file=fox_file)
    assert [next(stream).seed for _ in range(3)] == [0, 1, 2]
    stream.close()  # type: ignore[attr-defined]


def test_no_workers_are_refused(fox_file: Path) -> None:
    with pytest.raises(ValueError, match="workers=0"):
        render(range(1), 0, fox_file)
