import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from more4d_kernels import normalize_motion
from more4d_kernels.backends import Backend
from more4d_kernels.depth_norm import MotionStatistics, bin_edges
from torch import Tensor

BACKENDS: list[Backend] = ["plain", "cpu", "triton"]
SIZE = (5, 70)


def clip(*, seed: int = 0, frames: int = 18) -> tuple[Tensor, Tensor]:
    """Points [2, frames, 5, 70, 3] whose steps span seven decades, some of them not finite; and their cameras."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(2, frames, *SIZE, 3, generator=generator)
    points *= 10 ** (torch.rand(points.shape, generator=generator) * 7 - 5)
    points[:, 0] = 0
    points[..., 2] += 3
    points[0, 0, 1, 2, 2], points[0, 0, 0, 0, 2], points[1, 0, 3, 3, 0] = math.nan, -1, math.inf
    points[0, -1, 2, 2, 1], points[1, -1, 2, 2, 0] = math.nan, math.inf
    K = torch.diag(torch.tensor((80.0, 60.0, 1.0))).repeat(2, 1, 1)
    K[1] *= 1.3
    return points, K


def measured(points: Tensor, K: Tensor, backend: Backend) -> tuple[Tensor, Tensor, MotionStatistics]:
    return normalize_motion(points, K, image_size=SIZE, statistics=True, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_maximum_is_that_of_finite_motion_in_valid_pixels(backend: Backend) -> None:
    motion, valid, statistics = measured(*clip(), backend)
    assert valid.sum() == valid.numel() - 3
    for b in range(2):
        for c in range(3):
            sizes = motion[b, c][:, valid[b]].abs()
            sizes = sizes[sizes.isfinite()]
            assert statistics.maximum[b, c] == sizes.max() and statistics.counts[b, c].sum() == len(sizes)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@given(seed=st.integers(0, 10_000), frames=st.integers(1, 20))
@settings(max_examples=5, deadline=None)
def test_every_backend_counts_the_same(backend: Backend, seed: int, frames: int) -> None:
    points, K = clip(seed=seed, frames=frames)
    found, expected = measured(points, K, backend)[2], measured(points, K, "plain")[2]
    assert torch.equal(found.counts, expected.counts) and torch.equal(found.maximum, expected.maximum)


@given(seed=st.integers(0, 10_000), q=st.floats(0, 100))
@settings(max_examples=50, deadline=None)
def test_a_percentile_is_within_its_stated_error(seed: int, q: float) -> None:
    motion, valid, statistics = measured(*clip(seed=seed), "plain")
    found = statistics.percentile(q)
    for b in range(2):
        for c in range(3):
            sizes = motion[b, c][:, valid[b]].abs()
            sizes = sizes[sizes.isfinite()].sort().values
            true = sizes[max(math.ceil(len(sizes) * (q / 100)), 1) - 1].item()
            if true < bin_edges()[1]:
                assert found[b, c] == 0 or q == 100
            elif true < bin_edges()[-1]:
                assert abs(found[b, c].item() - true) <= true * (1 / 32 + 1e-6)
            else:
                assert bin_edges()[-1] <= found[b, c] <= statistics.maximum[b, c]


def test_the_hundredth_percentile_is_the_maximum() -> None:
    statistics = measured(*clip(), "plain")[2]
    assert torch.equal(statistics.percentile(100), statistics.maximum)


def test_bins_begin_at_0_and_are_sixteenths_of_an_octave() -> None:
    edges = bin_edges()
    assert edges[0] == 0 and edges[1] == 2**-12 * 17 / 16 and edges[-1] == 15.5
    assert (edges[2:] / edges[1:-1]).max() <= 17 / 16


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_at_the_edges_fall_in_the_bins_they_begin(backend: Backend) -> None:
    edges = bin_edges()
    points = torch.zeros(1, 2, 1, 256, 3)
    points[..., 2] = 1
    points[0, 1, 0, :, 0] = -edges
    motion, _, statistics = normalize_motion(
        points, torch.eye(3)[None] * 256, image_size=(1, 256), statistics=True, backend=backend
    )
    assert torch.equal(motion[0, 0, 1, 0], -edges)
    expected = torch.ones(256, dtype=torch.int64)
    expected[0] += 256
    assert torch.equal(statistics.counts[0, 0], expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_where_nothing_is_valid_the_maximum_is_0_and_percentiles_are_nan(backend: Backend) -> None:
    points, K = clip()
    points[0, 0] = math.nan
    _, _, statistics = measured(points, K, backend)
    assert (statistics.maximum[0] == 0).all() and (statistics.maximum[1] > 0).all()
    for q in (50, 100):
        assert statistics.percentile(q)[0].isnan().all() and not statistics.percentile(q)[1].isnan().any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_statistics_have_no_gradient_and_are_of_motion_before_its_cast(backend: Backend) -> None:
    points, K = clip()
    points.requires_grad_()
    motion, _, statistics = normalize_motion(
        points, K, image_size=SIZE, statistics=True, dtype=torch.bfloat16, backend=backend
    )
    assert motion.requires_grad and not statistics.maximum.requires_grad
    assert torch.equal(statistics.maximum, measured(points.detach(), K, backend)[2].maximum)


def test_a_percentage_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 100"):
        measured(*clip(), "plain")[2].percentile(101)
