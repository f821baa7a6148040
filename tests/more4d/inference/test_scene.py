import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from more4d.inference.scene import Scene, hash_files, read_description, read_scene, write_scene

MakeScene = Callable[..., Scene]


def test_a_scene_comes_back_as_it_was_written(tmp_path: Path, make_scene: MakeScene) -> None:
    scene = make_scene()
    write_scene(scene, tmp_path / "s")
    back = read_scene(tmp_path / "s")
    for name in ("name", "prompt", "seed", "fps", "models", "credit", "settings", "timings", "checks"):
        assert getattr(back, name) == getattr(scene, name)
    assert np.array_equal(back.image, scene.image)
    assert np.array_equal(back.visibility, scene.visibility)
    assert np.array_equal(back.valid, scene.valid)
    assert not back.valid[0, 0]
    # 0.4 m in 32,767 steps: half a step is 6 micrometres.
    assert np.abs(back.points - scene.points)[:, scene.valid].max() < 1e-5


def test_views_keep_their_poses_and_masks_exactly_and_their_videos_nearly(
    tmp_path: Path, make_scene: MakeScene
) -> None:
    scene = make_scene()
    write_scene(scene, tmp_path / "s")
    view, before = read_scene(tmp_path / "s").views["spiral"], scene.views["spiral"]
    assert np.array_equal(view.covered, before.covered)
    assert np.array_equal(view.camera_to_world, before.camera_to_world)
    assert np.abs(view.video.astype(int) - before.video).mean() < 4


def test_the_folder_holds_what_the_design_names(tmp_path: Path, make_scene: MakeScene) -> None:
    write_scene(make_scene(), tmp_path / "s", page=lambda scene: f"<p>{scene.prompt}</p>")
    names = {str(path.relative_to(tmp_path / "s")) for path in (tmp_path / "s").rglob("*") if path.is_file()}
    views = {f"views/spiral{end}.mp4" for end in ("", ".render", ".mask")}
    assert names == {"scene.json", "tracks.safetensors", "image.png", "depth.png", "index.html"} | views
    assert (tmp_path / "s" / "index.html").read_text() == "<p>a patch moves</p>"


def test_depth_png_times_its_scale_is_the_depth(tmp_path: Path, make_scene: MakeScene) -> None:
    scene = make_scene()
    write_scene(scene, tmp_path / "s")
    codes = cv2.imread(str(tmp_path / "s" / "depth.png"), cv2.IMREAD_UNCHANGED)
    assert codes is not None and codes.dtype == np.uint16
    scale = read_description(tmp_path / "s")["depth_png_metres_per_unit"]
    assert np.abs(codes * scale - scene.depth).max() <= scale


def test_the_hash_ignores_timings_and_sees_everything_else(tmp_path: Path, make_scene: MakeScene) -> None:
    digest = write_scene(make_scene(), tmp_path / "a")
    assert write_scene(make_scene(timings={"total": 9.0}), tmp_path / "b", page=lambda _: "x") == digest
    moved = make_scene()
    moved.points[2, 9, 12, 0] += 0.01
    assert write_scene(moved, tmp_path / "c") != digest
    assert read_description(tmp_path / "a")["scene_hash"] == digest


def test_a_failed_write_leaves_nothing_or_the_old_folder(tmp_path: Path, make_scene: MakeScene) -> None:
    def broken(_: Scene) -> str:
        raise RuntimeError("no page")

    with pytest.raises(RuntimeError):
        write_scene(make_scene(), tmp_path / "s", page=broken)
    assert list(tmp_path.iterdir()) == []
    write_scene(make_scene(), tmp_path / "s")
    before = hash_files(tmp_path / "s")
    with pytest.raises(RuntimeError):
        write_scene(make_scene(seed=4), tmp_path / "s", page=broken)
    assert hash_files(tmp_path / "s") == before
    assert read_scene(tmp_path / "s").seed == 3


@pytest.mark.parametrize("name", ["tracks.safetensors", "image.png", "views/spiral.mask.mp4"])
def test_a_missing_or_changed_file_is_refused_by_name(tmp_path: Path, make_scene: MakeScene, name: str) -> None:
    write_scene(make_scene(), tmp_path / "s")
    (tmp_path / "s" / name).write_bytes(b"changed")
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        read_scene(tmp_path / "s")
    (tmp_path / "s" / name).unlink()
    with pytest.raises(ValueError, match=f"lacks {name}"):
        read_scene(tmp_path / "s")


def test_another_schema_version_is_refused(tmp_path: Path, make_scene: MakeScene) -> None:
    write_scene(make_scene(), tmp_path / "s")
    path = tmp_path / "s" / "scene.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(ValueError, match="schema version 99"):
        read_scene(tmp_path / "s")
    with pytest.raises(ValueError, match=r"not a scene folder.*scene\.json"):
        read_scene(tmp_path)


def test_a_scene_refuses_arrays_that_do_not_fit(make_scene: MakeScene) -> None:
    with pytest.raises(ValueError, match=r"visibility is \[2, 32, 48\]"):
        make_scene(visibility=np.ones((2, 32, 48), bool))
