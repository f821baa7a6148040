import numpy as np
import pytest
from more4d.evaluation.views import compose, psnr, psnr_interval, squared_error, telea, view_sums
from numpy.typing import NDArray


@pytest.fixture(scope="module")
def truth() -> NDArray[np.uint8]:
    """A gradient, uint8 [2,32,48,3]."""
    v, u = np.indices((32, 48))
    return np.tile(np.stack([u * 5, v * 7, u + v], -1).astype(np.uint8), (2, 1, 1, 1))


@pytest.fixture(scope="module")
def covered() -> NDArray[np.bool_]:
    mask = np.ones((2, 32, 48), bool)
    mask[:, 10:20, 12:30] = False
    return mask


def test_a_completion_that_is_right_is_perfect_in_the_holes(truth: NDArray, covered: NDArray) -> None:
    render = truth * covered[..., None]
    sums = view_sums(truth, truth, render, covered)
    assert sums["hole_squared_error"] == sums["view_squared_error"] == 0
    assert sums["hole_telea_squared_error"] > 0
    assert sums["hole_values"] == 3 * (~covered).sum()


def test_only_the_holes_of_a_completion_are_used(truth: NDArray, covered: NDArray) -> None:
    garbage = np.where(covered[..., None], 0, truth).astype(np.uint8)
    assert np.array_equal(compose(truth, covered, garbage), truth)


def test_telea_keeps_what_is_known_and_continues_it_into_holes(truth: NDArray, covered: NDArray) -> None:
    filled = telea(truth * covered[..., None], covered)
    assert np.array_equal(filled[covered], truth[covered])
    assert psnr(*squared_error(filled, truth, ~covered)) > 20


def test_psnr_of_a_known_error() -> None:
    black, grey = np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 51, np.uint8)
    assert psnr(*squared_error(grey, black)) == pytest.approx(20 * np.log10(5))
    assert np.isnan(psnr(0.0, 0))
    interval = psnr_interval(np.full(5, 2.0), np.full(5, 1.0))
    assert interval.low == interval.value == interval.high


def test_videos_of_other_sizes_are_refused(truth: NDArray) -> None:
    with pytest.raises(ValueError, match="its truth"):
        squared_error(truth[:1], truth)
