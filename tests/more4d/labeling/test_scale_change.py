"""Claims about more4d.labeling.scale_change."""

from dataclasses import replace

import numpy as np
from more4d.labeling.scale_change import scale_change
from more4d.labeling.tracks import TrackLabel

LIMIT = 0.15


def test_a_larger_drift_changes_more(sound: TrackLabel) -> None:
    ends = [1 - np.linspace(0, 0.05 * step, 5)[:, None, None, None] for step in range(5)]
    changes = [scale_change(replace(sound, points=(sound.points * end).astype(np.float32)), 1.25) for end in ends]
    assert changes[0] < 0.02 and changes == sorted(changes)


def test_a_drift_of_a_third_of_the_picture_is_caught(sound: TrackLabel) -> None:
    points = sound.points.copy()
    points[:, :, 29:] *= np.linspace(1, 1.3, 5)[:, None, None, None]
    assert scale_change(replace(sound, points=points), 1.25) > LIMIT


def test_a_scene_that_comes_nearer_as_it_is_changes_less_than_one_whose_scale_drifts(sound: TrackLabel) -> None:
    nearer = sound.points - np.linspace(0, 0.5, 5)[:, None, None, None] * np.array([0, 0, 1])
    drifting = sound.points * np.linspace(1, 0.9, 5)[:, None, None, None]
    one, other = (scale_change(replace(sound, points=p.astype(np.float32)), 1.25) for p in (nearer, drifting))
    assert one < 0.25 < other
