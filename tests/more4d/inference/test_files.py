from pathlib import Path

import cv2
import numpy as np
import pytest
from more4d.inference.files import fit_depth, load_depth, require_free


def test_depth_is_read_in_metres_from_either_format(tmp_path: Path) -> None:
    depth = np.linspace(1, 5, 12).reshape(3, 4).astype(np.float32)
    np.save(tmp_path / "a.npy", depth)
    cv2.imwrite(str(tmp_path / "a.png"), np.rint(depth * 1000).astype(np.uint16))
    assert np.array_equal(load_depth(tmp_path / "a.npy"), depth)
    assert np.abs(load_depth(tmp_path / "a.png") - depth).max() < 1e-3


def test_a_pickled_array_is_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="a.npy: not a readable .npy array"):
        load_depth(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("a.png", np.zeros((4, 4), np.uint8), "16 bits"),
        ("a.npy", np.zeros((4, 4, 1), np.float32), r"\[rows, columns\]"),
        ("a.npy", np.zeros((4, 4), complex), "real numbers"),
        ("a.tif", None, "not .tif"),
        ("b.npy", None, "no such file"),
    ],
)
def test_what_is_no_depth_is_refused_by_name(tmp_path: Path, name: str, array: np.ndarray | None, reason: str) -> None:
    path = tmp_path / name
    if name == "a.tif":
        path.write_bytes(b"II*")
    elif array is not None:
        np.save(path, array) if path.suffix == ".npy" else cv2.imwrite(str(path), array)
    with pytest.raises(ValueError, match=f"{name}.*{reason}"):
        load_depth(path)


def test_depth_follows_the_crop_of_its_photo() -> None:
    depth = np.tile(np.arange(1, 101, dtype=np.float32), (50, 1))
    fitted = fit_depth(depth, (500, 1000), (250.0, 0.0, 750.0, 500.0), (10, 10))
    assert fitted[:, 0] == pytest.approx(28, abs=1)
    assert fitted[:, -1] == pytest.approx(73, abs=1)


def test_depth_of_another_shape_than_its_photo_is_refused() -> None:
    with pytest.raises(ValueError, match="50x100 and the upright photo 100x50"):
        fit_depth(np.ones((50, 100), np.float32), (100, 50), (0, 0, 50, 100), (8, 8))
    with pytest.raises(ValueError, match="none of 64 given depths"):
        fit_depth(np.zeros((50, 100), np.float32), (50, 100), (0, 0, 100, 50), (8, 8))


def test_only_a_scene_folder_is_replaced_and_only_when_asked(tmp_path: Path) -> None:
    require_free(tmp_path / "new", force=False)
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "scene.json").write_text("{}")
    require_free(tmp_path / "scene", force=True)
    with pytest.raises(ValueError, match="exists"):
        require_free(tmp_path / "scene", force=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="will not be replaced"):
        require_free(tmp_path / "other", force=True)
