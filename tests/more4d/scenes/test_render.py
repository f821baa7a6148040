"""Suffixes: T frames, P first-frame pixels, F faces."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from more4d.scenes import RenderedScene, SceneConfig, render_scene, sample_scene
from more4d.scenes.cameras import Cameras, level_from_world
from more4d.scenes.stage import Stage
from numpy.typing import NDArray

FRAMES, HEIGHT, WIDTH = 13, 64, 96
SEEDS = (0, 1, 2, 3, 4, 6, 15, 21)
"""Foxes that run and look around, balls that roll and bounce, boxes, pairs."""


@pytest.fixture(scope="module")
def scenes(fox_file: Path) -> dict[int, RenderedScene]:
    return {seed: render(seed, fox_file) for seed in SEEDS}


def render(seed: int, fox_file: Path, **options: object) -> RenderedScene:
    size = {"frames": FRAMES, "height": HEIGHT, "width": WIDTH, **options}
    return render_scene(sample_scene(seed), fox_file=fox_file, **size)  # type: ignore[arg-type]


def digest(scene: RenderedScene) -> str:
    arrays = (scene.video, scene.depths, scene.intrinsics, scene.points, scene.visibility, scene.moving_object)
    videos = [view.video for view in scene.views.values()]
    return hashlib.sha256(b"".join(array.tobytes() for array in (*arrays, *videos))).hexdigest()


def project(scene: RenderedScene, points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Pixels [..., 2] of points in the world, which is the first frame's camera."""
    k = scene.intrinsics.astype(np.float64)
    xyz = points.astype(np.float64)
    return xyz[..., :2] / xyz[..., 2:] * [k[0, 0], k[1, 1]] + [k[0, 2], k[1, 2]]


def source_camera(scene: RenderedScene) -> Cameras:
    still = np.tile(np.eye(4), (FRAMES, 1, 1))
    level = level_from_world(sample_scene(scene.seed).camera)
    return Cameras.of_world(still, level, scene.intrinsics.astype(np.float64), HEIGHT, WIDTH)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_first_frame_reprojects_to_pixel_centres_at_its_depth(scenes: dict[int, RenderedScene], seed: int) -> None:
    scene = scenes[seed]
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    error = project(scene, scene.points[0]) - np.stack([columns + 0.5, rows + 0.5], axis=-1)
    assert np.abs(error).max() <= 0.01
    np.testing.assert_allclose(scene.points[0, ..., 2], scene.depth, rtol=1e-6)
    assert scene.visibility[0].all() and np.isfinite(scene.depths).all() and scene.depths.min() > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fresh_ray_through_every_visible_track_ends_at_its_depth(
    scenes: dict[int, RenderedScene], fox_file: Path, seed: int
) -> None:
    scene = scenes[seed]
    stage, camera = Stage(sample_scene(seed), FRAMES, fox_file), source_camera(scene)
    uv, visible = project(scene, scene.points), scene.visibility
    frames = np.nonzero(visible)[0]
    hit = stage.depth(frames, *camera.rays(frames, camera.directions(uv[visible])))
    relative = np.abs(hit / scene.points[..., 2][visible] - 1)
    assert relative.max() <= 1e-4
    assert (uv[visible] >= 0).all() and (uv[visible] <= [WIDTH, HEIGHT]).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_what_hides_an_invisible_track_is_in_front_of_it_or_it_left_the_image(
    scenes: dict[int, RenderedScene], fox_file: Path, seed: int
) -> None:
    scene = scenes[seed]
    stage, camera = Stage(sample_scene(seed), FRAMES, fox_file), source_camera(scene)
    uv = project(scene, scene.points)
    inside = (uv >= 0).all(-1) & (uv[..., 0] < WIDTH) & (uv[..., 1] < HEIGHT)
    hidden = inside & ~scene.visibility
    frames = np.nonzero(hidden)[0]
    hit = stage.depth(frames, *camera.rays(frames, camera.directions(uv[hidden])))
    in_front = hit < scene.points[..., 2][hidden]
    # On an outline, a ray may pass the very edge that the point lies on.
    assert in_front.mean() > 0.99 if in_front.size else True


@pytest.mark.parametrize("seed", (0, 2, 3))
def test_tracks_agree_with_brute_force_intersection_within_a_hundredth_of_a_pixel(
    scenes: dict[int, RenderedScene], fox_file: Path, seed: int
) -> None:
    """Every triangle is tried for a few pixels, without Embree, and the hit is carried along by hand."""
    scene = scenes[seed]
    stage, level = Stage(sample_scene(seed), FRAMES, fox_file), level_from_world(sample_scene(seed).camera)
    triangles = [mover.corners.reshape(FRAMES, -1, 3, 3) @ level for mover in stage.movers]
    corners_TF33 = np.concatenate(triangles, axis=1)
    pixels = np.argwhere(scene.moving_object)[:: max(scene.moving_object.sum() // 25, 1)]
    directions = source_camera(scene).pixel_directions().reshape(HEIGHT, WIDTH, 3)
    for row, column in pixels:
        first, edges = corners_TF33[0, :, 0], corners_TF33[0, :, 1:] - corners_TF33[0, :, :1]
        system = np.stack([edges[:, 0], edges[:, 1], -np.tile(directions[row, column], (len(first), 1))], -1)
        flat = np.abs(np.linalg.det(system)) < 1e-12
        system[flat] = np.eye(3)
        u, v, depth = np.linalg.solve(system, -first[..., None])[..., 0].T
        depth[flat | (u < 0) | (v < 0) | (u + v > 1) | (depth < 0)] = np.inf
        face = depth.argmin()
        weights = np.array([1 - u[face] - v[face], u[face], v[face]])
        path = np.einsum("k,tkc->tc", weights, corners_TF33[:, face])
        error = project(scene, scene.points[:, row, column]) - project(scene, path)
        assert np.abs(error).max() <= 0.01


@pytest.mark.parametrize("seed", range(40, 60))
def test_the_main_object_moves_where_the_caption_says(fox_file: Path, seed: int) -> None:
    config = SceneConfig(pair_share=0)
    spec = sample_scene(seed, config)
    scene = render_scene(spec, frames=FRAMES, height=HEIGHT, width=WIDTH, fox_file=fox_file)
    x, _, z = (scene.points[-1] - scene.points[0])[scene.moving_object].mean(axis=0)
    signs = {"left": x < 0, "right": x > 0, "towards": z < 0, "away": z > 0, "none": abs(x) < 0.2}
    assert signs[spec.direction]
    words = {"left": "to the left", "right": "to the right", "towards": "towards the", "away": "away from"}
    assert words.get(spec.direction, "looks around") in spec.caption


def test_a_moderate_share_of_pixels_moves(fox_file: Path) -> None:
    shares = []
    for seed in range(200, 240):
        scene = render(seed, fox_file)
        displacement = np.linalg.norm(scene.points - scene.points[0], axis=-1).max(axis=0)
        shares.append((displacement > 0.01 * scene.depth).mean())
    assert 0.06 <= np.mean(shares) <= 0.12


def test_only_things_that_move_have_moving_points(scenes: dict[int, RenderedScene]) -> None:
    for scene in scenes.values():
        still = scene.points[:, ~scene.moving_object]
        assert (still == still[0]).all()
        assert scene.moving_object.any()


def test_the_same_seed_gives_the_same_bytes(scenes: dict[int, RenderedScene], fox_file: Path) -> None:
    assert digest(render(3, fox_file)) == digest(scenes[3])
    assert digest(scenes[0]) != digest(scenes[1])


def test_a_still_view_shows_the_source_clip_and_a_moving_one_does_not(fox_file: Path) -> None:
    scene = render(0, fox_file, views=("static", "circle_left"))
    assert (scene.views["static"].video == scene.video).all()
    circle = scene.views["circle_left"]
    assert (circle.video[0] == scene.video[0]).all()
    assert (circle.video[-1] != scene.video[-1]).mean() > 0.2
    np.testing.assert_array_equal(circle.camera_to_world[0], np.eye(4, dtype=np.float32))


def test_a_view_shows_the_same_world_as_the_source(fox_file: Path) -> None:
    """Still points carry nearly the same colour where another camera sees them."""
    scene = render(2, fox_file, views=("circle_right",))
    view = scene.views["circle_right"]
    pose = view.camera_to_world[-1].astype(np.float64)
    still = ~scene.moving_object
    local = (scene.points[0][still] - pose[:3, 3]) @ pose[:3, :3]
    uv = np.floor(project(scene, local)).astype(int)
    inside = (uv >= 1).all(-1) & (uv < [WIDTH - 1, HEIGHT - 1]).all(-1)
    seen = view.video[-1][uv[inside, 1], uv[inside, 0]].astype(float)
    assert np.median(np.abs(seen - scene.video[0][still][inside])) < 12


def test_twice_the_size_shows_the_same_scene(scenes: dict[int, RenderedScene], fox_file: Path) -> None:
    large = render(2, fox_file, height=2 * HEIGHT, width=2 * WIDTH)
    small = large.video.reshape(FRAMES, HEIGHT, 2, WIDTH, 2, 3).mean(axis=(2, 4))
    assert np.abs(small - scenes[2].video).mean() < 6
    np.testing.assert_allclose(large.intrinsics[:2], 2 * scenes[2].intrinsics[:2], rtol=1e-5)


def test_a_missing_fox_says_how_to_fetch_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="python -m more4d.data.packaged --out"):
        render(0, tmp_path / "fox" / "Fox.gltf")


def test_views_with_a_wrong_number_of_poses_are_refused(fox_file: Path) -> None:
    with pytest.raises(ValueError, match="2 poses for 13 frames"):
        render(1, fox_file, views={"short": np.tile(np.eye(4), (2, 1, 1))})
