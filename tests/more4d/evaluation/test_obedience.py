from collections.abc import Callable

import pytest
from more4d.evaluation.baselines import Clip
from more4d.evaluation.obedience import mean_motion_along, turned


def test_motion_turns_only_if_it_went_the_right_way_before_and_the_other_after(
    make_clip: Callable[..., Clip],
) -> None:
    left, right = make_clip("left"), make_clip("right")
    mask = left.truth.moving
    assert turned(left.points, right.points, mask, "left")
    assert not turned(left.points, right.points, mask, "right")
    assert not turned(left.points, left.points, mask, "left")
    assert mean_motion_along(left.points, mask, "left") == pytest.approx(0.4, rel=1e-4)
    assert mean_motion_along(left.points, mask, "away") == 0
