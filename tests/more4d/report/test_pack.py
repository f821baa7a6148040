import base64
import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from more4d.inference.scene import Scene
from more4d.report.pack import pack_scene

MakeScene = Callable[..., Scene]


def unpack(packed: dict) -> np.ndarray:
    """Points [T, N, 3] as viewer.js computes them."""
    depth, motion = (
        np.frombuffer(zlib.decompress(base64.b64decode(packed[key])), np.uint8) for key in ("depth", "motion")
    )
    codes = joined(depth).reshape(packed["grid"][::-1])
    (low, high), (fx, fy, cx, cy) = packed["depthRange"], packed["lens"]
    z = low * (high / low) ** ((codes.astype(float) - 1) / 65534)
    v, u = np.indices(codes.shape) * packed["stride"] + packed["offset"] + 0.5
    base = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z], -1)[codes > 0]
    steps = np.cumsum(joined(motion).reshape(packed["frames"], 3, -1), 0, dtype=np.uint16).view(np.int16)
    return base + packed["motionStep"] * steps.transpose(0, 2, 1)


def joined(planes: np.ndarray) -> np.ndarray:
    low, high = planes.reshape(2, -1).astype(np.uint16)
    return low | high << 8


def test_unpacked_points_are_within_a_tenth_of_a_pixel_at_every_frame(make_scene: MakeScene) -> None:
    scene = make_scene()
    packed = pack_scene(scene)
    error = np.abs(unpack(packed) - scene.points.reshape(7, -1, 3)).max()
    assert error <= 0.51 * packed["motionStep"]
    assert packed["motionStep"] == pytest.approx(0.2 * np.median(scene.points[0, ..., 2]) / scene.intrinsics[0, 0])


def test_points_without_depth_are_left_out(make_scene: MakeScene) -> None:
    scene = make_scene()
    points = scene.points.copy()
    points[:, :10] = np.nan
    points[:, 20, 30, 2] = 0
    packed = pack_scene(replace(scene, points=points))
    keep = np.isfinite(points).all((0, -1)) & (points[0, ..., 2] > 0)
    assert keep.sum() == 38 * 72 - 1
    np.testing.assert_allclose(unpack(packed), points[:, keep], atol=0.51 * packed["motionStep"])


def test_a_large_grid_is_thinned_to_the_limit_and_its_points_stay_on_their_rays(make_scene: MakeScene) -> None:
    scene = make_scene(height=96, width=144)
    packed = pack_scene(scene, max_points=2000)
    assert packed["stride"] == 3 and packed["grid"] == [48, 32]
    np.testing.assert_allclose(
        unpack(packed), scene.points[:, 1::3, 1::3].reshape(7, -1, 3), atol=0.51 * packed["motionStep"]
    )


def test_trails_are_points_that_move(make_scene: MakeScene) -> None:
    scene = make_scene()
    packed = pack_scene(scene, max_trails=40)
    displacement = np.linalg.norm(scene.points[-1] - scene.points[0], axis=-1).ravel()
    assert len(packed["trails"]) == 40
    assert (displacement[packed["trails"]] > 1).all()


def test_trails_and_pivot_follow_the_movers_not_a_drifting_background(make_scene: MakeScene) -> None:
    scene = make_scene()
    wall = scene.image[..., 0] != 210
    points = scene.points.copy()
    points[-1, wall, 0] += 0.06
    packed = pack_scene(replace(scene, points=points))
    assert not wall.ravel()[packed["trails"]].any()
    assert packed["pivot"][2] < 3


def test_a_still_scene_has_no_trails(make_scene: MakeScene) -> None:
    scene = make_scene()
    packed = pack_scene(replace(scene, points=np.repeat(scene.points[:1], 7, 0)))
    assert packed["trails"] == [] and packed["pivot"][2] == pytest.approx(4.0)


def test_motion_of_kilometres_still_fits(make_scene: MakeScene) -> None:
    scene = make_scene()
    points = scene.points.copy()
    points[-1, 0, 0] += 5000
    packed = pack_scene(replace(scene, points=points))
    np.testing.assert_allclose(unpack(packed)[-1, 0], points[-1, 0, 0], atol=packed["motionStep"])


def test_a_scene_without_any_depth_is_refused_by_name(make_scene: MakeScene) -> None:
    scene = make_scene(name="fog")
    with pytest.raises(ValueError, match="scene fog: no point of 3456"):
        pack_scene(replace(scene, points=-scene.points))
