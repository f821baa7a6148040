from collections.abc import Callable

import numpy as np
import pytest
from more4d.evaluation.baselines import (
    Clip,
    caption_key,
    caption_lookup,
    gather_statistics,
    mean_motion,
)
from more4d.evaluation.trajectories import ratio_to_static

MakeClip = Callable[..., Clip]


@pytest.mark.parametrize(
    ("caption", "key"),
    [
        ("a red fox runs to the left on the grass", ("fox", "left")),
        ("a blue ball rolls slowly away from the camera and a fox walks to the right", ("ball", "away")),
        ("A box slides towards the camera", ("box", "towards")),
        ("a fox looks around", ("fox", "")),
        ("a cat walks to the right", ("", "right")),
    ],
)
def test_a_caption_is_looked_up_by_what_its_first_clause_says(caption: str, key: tuple[str, str]) -> None:
    assert caption_key(caption) == key


def test_the_caption_look_up_is_perfect_where_one_caption_means_one_motion(make_clip: MakeClip) -> None:
    statistics = gather_statistics([make_clip("left"), make_clip("right")])
    for direction in ("left", "right"):
        clip = make_clip(direction)
        assert ratio_to_static(caption_lookup(statistics, clip), clip.truth, "all") < 1e-5


def test_an_unknown_caption_takes_the_mean_of_all_that_moves(make_clip: MakeClip) -> None:
    statistics = gather_statistics([make_clip("left"), make_clip("right"), make_clip("right")])
    clip = make_clip("right", kind="box")
    assert ratio_to_static(caption_lookup(statistics, clip), clip.truth, "moving") == pytest.approx(2 / 3, abs=1e-4)


def test_the_mean_motion_moves_every_pixel_as_it_moves_on_average(make_clip: MakeClip) -> None:
    statistics = gather_statistics([make_clip("left"), make_clip("right"), make_clip("right"), make_clip("right")])
    clip = make_clip("right")
    assert ratio_to_static(mean_motion(statistics, clip), clip.truth, "moving") == pytest.approx(0.5, abs=1e-4)
    assert ratio_to_static(mean_motion(statistics, make_clip("left")), make_clip("left").truth, "all") > 1


def test_unknown_positions_do_not_spoil_the_means(make_clip: MakeClip) -> None:
    clip = make_clip("left")
    clip.points[2:, 0] = np.nan
    statistics = gather_statistics([clip])
    assert np.isfinite(statistics.field).all()
    assert np.isfinite(mean_motion(statistics, make_clip("left"))).all()


def test_no_training_clip_is_an_error() -> None:
    with pytest.raises(ValueError, match="no training clip"):
        gather_statistics([])
