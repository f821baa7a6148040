import numpy as np
import pytest
from more4d.evaluation.pooling import bootstrap, pooled_ratio, ratio_interval


def test_a_scene_counts_by_its_pixels() -> None:
    assert pooled_ratio(np.array([1.0, 0.0]), np.array([1.0, 9.0])) == pytest.approx(0.1)
    assert np.isnan(pooled_ratio(np.zeros(2), np.zeros(2)))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(0), 0
    for trial in range(60):
        weights = rng.uniform(1, 3, 80)
        interval = ratio_interval(weights * rng.normal(0.6, 0.3, 80), weights, seed=trial)
        held += interval.low <= 0.6 <= interval.high
    assert held >= 52


def test_the_interval_repeats_with_its_seed_and_needs_scenes() -> None:
    values = np.random.default_rng(1).normal(size=(30, 1))
    assert bootstrap(values, lambda v: float(v.mean())) == bootstrap(values, lambda v: float(v.mean()))
    with pytest.raises(ValueError, match="no scene"):
        ratio_interval(np.zeros(0), np.zeros(0))
