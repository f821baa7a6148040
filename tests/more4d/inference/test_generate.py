from pathlib import Path

import numpy as np
import pytest
from more4d.inference.generate import Request, fill_holes, generate_scene, shrink
from more4d.inference.scene import write_scene
from more4d.models.bundle import Models
from numpy.typing import NDArray


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    """A photo [90,120,3] of a bright disc before a dark gradient."""
    v, u = np.indices((90, 120))
    disc = (v - 45) ** 2 + (u - 60) ** 2 < 20**2
    return np.where(disc[..., None], [220, 180, 60], np.stack([u, v, u + v], -1)).astype(np.uint8)


@pytest.fixture(scope="module")
def depth() -> NDArray[np.float32]:
    """The disc at 2 m, the rest at 5 m."""
    v, u = np.indices((90, 120))
    return np.where((v - 45) ** 2 + (u - 60) ** 2 < 20**2, 2.0, 5.0).astype(np.float32)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompt": "  "}, "prompt is empty"),
        ({"cameras": ("sideways",)}, "unknown camera 'sideways'; the cameras are static"),
        ({"cameras": ()}, "no camera"),
        ({"steps": 0}, "steps=0"),
        ({"guidance": 0.5}, r"guidance=0\.5"),
        ({"camera_amount": 0.0}, "camera amount"),
        ({"motion_smoothing": -1.0}, "motion smoothing"),
        ({"seed": -1}, "seed=-1"),
        ({"render_scale": 0}, "render scale 0"),
        ({"fov_x_degrees": 180.0}, "field of view of 180"),
        ({"fov_x_degrees": 50.0, "intrinsics": (1, 1, 1, 1)}, "not both"),
        ({"intrinsics": (0, 1, 1, 1)}, "positive focal"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_when_it_is_made(changes: dict, reason: str) -> None:
    fields: dict = {"prompt": "a disc moves", "cameras": ("static",)}
    with pytest.raises(ValueError, match=reason):
        Request(**(fields | changes))


def test_covered_pixels_stay_as_rendered_and_holes_are_filled(models: Models, picture: NDArray, depth: NDArray) -> None:
    request = Request("a disc moves", ("circle_left",), depth=depth, fov_x_degrees=50.0, camera_amount=1.0)
    view = generate_scene(models, picture, request, name="disc").views["circle_left"]
    assert 0.02 < 1 - view.covered.mean() < 0.5
    assert np.array_equal(view.video[view.covered], view.render[view.covered])
    assert (view.render[~view.covered] == 0).all()
    assert (view.video[~view.covered] > 0).any(-1).mean() > 0.5


def test_without_completion_the_holes_stay_black(models: Models, picture: NDArray, depth: NDArray) -> None:
    request = Request("a disc moves", ("circle_left",), depth=depth, complete=False)
    view = generate_scene(models, picture, request, name="disc").views["circle_left"]
    assert np.array_equal(view.video, view.render)


def test_given_depth_and_camera_are_the_scenes(models: Models, picture: NDArray, depth: NDArray) -> None:
    holes = np.where(np.arange(120) < 30, np.nan, depth).astype(np.float32)
    request = Request("a disc moves", ("static",), depth=holes, intrinsics=(100.0, 100.0, 60.0, 45.0), render_scale=2)
    scene = generate_scene(models, picture, request, name="disc")
    assert scene.image.shape == (64, 96, 3)
    # 120x90 covers 96x64 at 0.8, and loses 4 rows above and below.
    assert scene.intrinsics == pytest.approx(np.array([[80, 0, 48], [0, 80, 32], [0, 0, 1]]), abs=1e-4)
    assert np.median(scene.depth[28:36, 44:52]) == pytest.approx(2, rel=0.02)
    assert np.median(scene.depth[:, 80:]) == pytest.approx(5, rel=0.02)
    assert not scene.valid[:, :20].any()


def test_a_scene_tells_its_models_settings_timings_and_checks(models: Models, picture: NDArray, depth: NDArray) -> None:
    scene = generate_scene(models, picture, Request("a disc moves", ("static",), depth=depth), name="disc")
    assert scene.settings["steps"] == models.config.generation.steps
    assert {"depth", "trajectories", "densify", "render/static", "complete/static", "total"} == set(scene.timings)
    assert scene.checks["points_share"] == 1
    assert scene.checks["first_frame_psnr_db"] > 20
    assert 0 <= scene.checks["moving_share"] <= 1
    assert scene.checks["least_covered_share/static"] > 0.5


def test_the_same_seed_gives_the_same_scene_hash_and_another_seed_another(
    models: Models, picture: NDArray, tmp_path: Path
) -> None:
    def digest(seed: int, name: str) -> str:
        request = Request("a disc moves", ("spiral",), seed=seed, fov_x_degrees=50.0, render_scale=2)
        return write_scene(generate_scene(models, picture, request, name="disc"), tmp_path / name)

    assert digest(0, "a") == digest(0, "b")
    assert digest(1, "c") != digest(0, "d")


def test_filling_leaves_no_seam() -> None:
    render = np.full((1, 64, 96, 3), 150, np.uint8)
    covered = np.ones((1, 64, 96), bool)
    covered[0, 20:40, 30:60] = False
    filled = fill_holes(render, covered, np.full((1, 16, 24, 3), 90, np.uint8))
    assert (filled[covered] == 150).all()
    rim = filled[0, 20:40, 30:60][[0, -1]]
    assert np.abs(rim.astype(int) - 150).max() <= 20


def test_shrinking_takes_the_mean_of_what_is_covered() -> None:
    render = np.zeros((1, 8, 8, 3), np.uint8)
    covered = np.zeros((1, 8, 8), bool)
    covered[0, :, :6] = True
    render[covered] = 200
    small, known = shrink(render, covered, (2, 2))
    assert known.tolist() == [[[True, True], [True, True]]]
    assert (small == 200).all()
    covered[0, :, 5] = False
    assert shrink(render, covered, (2, 2))[1].tolist() == [[[True, False], [True, False]]]
