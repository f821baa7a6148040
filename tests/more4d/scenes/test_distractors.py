"""Suffixes: T frames, H height, W width."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from more4d.scenes import DISTRACTOR_KINDS, Distractor, DistractorKind, SceneConfig, render_distractor, sample_scene
from more4d.scenes.distractors import CAMERA_MOVES, CameraMove, camera_move, standing_still
from more4d.scenes.render import film_scene, render_scene

FRAMES, HEIGHT, WIDTH = 9, 32, 48


def render(kind: DistractorKind, seed: int, fox_file: Path) -> Distractor:
    return render_distractor(kind, seed, SceneConfig(), frames=FRAMES, height=HEIGHT, width=WIDTH, fox_file=fox_file)


@pytest.mark.parametrize("kind", DISTRACTOR_KINDS)
def test_the_same_seed_gives_the_same_clip_and_another_another(kind: DistractorKind, fox_file: Path) -> None:
    first, again, other = (render(kind, seed, fox_file) for seed in (5, 5, 6))
    assert first.caption == again.caption
    np.testing.assert_array_equal(first.video, again.video)
    assert first.video.shape[1:] == (HEIGHT, WIDTH, 3) and first.video.dtype == np.uint8
    assert not np.array_equal(first.video[:FRAMES], other.video[:FRAMES])


def test_a_still_clip_is_one_picture_but_for_noise_and_light(fox_file: Path) -> None:
    spread = [np.ptp(render("still", seed, fox_file).video.astype(int), axis=0) for seed in range(12)]
    exact = sum(int(s.max() == 0) for s in spread)
    assert 3 <= exact <= 9
    assert all(np.median(s) < 30 for s in spread)


@pytest.mark.parametrize("move", CAMERA_MOVES)
def test_each_camera_move_shifts_most_of_a_still_scene(move: CameraMove, fox_file: Path) -> None:
    spec = standing_still(sample_scene(4))
    poses = camera_move(move, spec, FRAMES, np.random.default_rng(0))
    np.testing.assert_allclose(poses[0], np.eye(4), atol=1e-12)
    np.testing.assert_allclose(
        poses[:, :3, :3] @ poses[:, :3, :3].transpose(0, 2, 1), np.tile(np.eye(3), (FRAMES, 1, 1)), atol=1e-12
    )
    video = film_scene(spec, poses, height=HEIGHT, width=WIDTH, fox_file=fox_file).astype(int)
    assert (np.abs(video - video[0]).max(0).max(-1) > 4).mean() > 0.3


def test_an_orbit_keeps_its_subject_in_the_middle_at_its_distance() -> None:
    spec = sample_scene(4)
    poses = camera_move("orbit", spec, FRAMES, np.random.default_rng(0))
    centre = np.array([0, 0, spec.objects[0].start_z])
    seen = np.einsum("tji,tj->ti", poses[:, :3, :3], centre - poses[:, :3, 3])
    np.testing.assert_allclose(seen, np.tile(centre, (FRAMES, 1)), atol=1e-12)


def test_a_film_at_rest_is_the_scene_as_it_is_rendered_with_truth(fox_file: Path) -> None:
    spec = sample_scene(2)
    size = {"height": HEIGHT, "width": WIDTH, "fox_file": fox_file}
    film = film_scene(spec, np.tile(np.eye(4), (FRAMES, 1, 1)), **size)  # type: ignore[arg-type]
    rendered = render_scene(spec, frames=FRAMES, **size).video  # type: ignore[arg-type]
    assert (np.abs(film.astype(int) - rendered.astype(int)) <= 1).mean() > 0.999


def test_in_what_is_uncountable_something_moves_all_over_the_picture(fox_file: Path) -> None:
    for seed in range(16):
        made = render("uncountable", seed, fox_file)
        steps = [np.abs(b.astype(int) - a.astype(int)).max(-1) > 8 for a, b in pairwise(made.video)]
        assert all(step.sum() >= 10 for step in steps), (seed, made.caption)


def test_cuts_join_scenes_that_are_shorter_than_a_window_and_together_as_long(fox_file: Path) -> None:
    for seed in range(6):
        made = render("cuts", seed, fox_file)
        change = [np.abs(b.astype(int) - a.astype(int)).mean() for a, b in pairwise(made.video)]
        cuts = [n + 1 for n in np.argsort(change)[::-1][: made.caption.count(", then ")]]
        ends = [0, *sorted(cuts), len(made.video)]
        assert len(made.video) >= FRAMES
        assert all((FRAMES + 1) // 2 <= b - a < FRAMES for a, b in pairwise(ends)), (seed, ends)


def test_one_frame_is_refused(fox_file: Path) -> None:
    with pytest.raises(ValueError, match="frames=1; a distractor needs at least 2"):
        render_distractor("still", 0, SceneConfig(), frames=1, height=HEIGHT, width=WIDTH, fox_file=fox_file)
