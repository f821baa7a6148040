"""Shape letters: T frames, H height, W width."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from more4d.data.video import read_video
from more4d.inference.reconstruct_cli import reconstruct
from more4d.inference.reconstruction_files import read_tracks
from more4d.inference.scene import Scene, write_scene
from more4d.scenes import RenderedScene
from safetensors.numpy import load_file, save_file


@pytest.fixture
def tracks(tmp_path: Path, rendered: list[RenderedScene]) -> Path:
    """A scene's trajectories as a file."""
    scene = rendered[0]
    file = tmp_path / "given.safetensors"
    save_file({"points": scene.points, "intrinsics": scene.intrinsics, "visibility": scene.visibility}, file)
    return file


def test_the_command_writes_tracks_maps_and_measures(
    tracks: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    reconstruct(tracks, out, checkpoint)
    decoded, given = read_tracks(out / "tracks.safetensors"), read_tracks(tracks)
    assert decoded.points.shape == given.points.shape
    np.testing.assert_array_equal(decoded.points[0], given.points[0])
    np.testing.assert_array_equal(decoded.visibility, given.visibility)
    assert load_file(out / "latent.safetensors")["latent"].shape == (16, 2, 4, 6)
    measures = json.loads((out / "metrics.json").read_text())
    error = np.linalg.norm(decoded.points - given.points, axis=-1)[given.visibility].mean()
    assert measures["trajectory_error_m"] == pytest.approx(error, rel=1e-4)
    picture = cv2.imread(str(out / "error.png"))
    assert picture is not None and picture.shape[1] > 1000 and len(np.unique(picture)) > 50
    assert read_video(out / "motion_map.mp4")[0].shape == given.points.shape
    assert f"mean error {error:.4g} m" in capsys.readouterr().out


def test_a_scene_folder_is_read_with_its_holes_as_unknown(
    tmp_path: Path, checkpoint: Path, make_scene: Callable[..., Scene]
) -> None:
    write_scene(make_scene(), tmp_path / "scene")
    given = read_tracks(tmp_path / "scene")
    assert np.isnan(given.points[:, 0, 0]).all() and np.isfinite(given.points[:, 1:]).all()
    reconstruct(tmp_path / "scene", tmp_path / "out", checkpoint, published_units=True)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["counted_share"] < 1


def test_an_existing_folder_is_left_alone(tracks: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="exists; choose another --out"):
        reconstruct(tracks, tmp_path / "out", checkpoint)
    assert not list((tmp_path / "out").iterdir())


def test_a_checkpoint_given_as_tracks_is_told_by_eight_of_its_keys(tmp_path: Path) -> None:
    file = tmp_path / "strag.safetensors"
    save_file({f"blocks.{i:02}": np.zeros(1, np.float32) for i in range(40)}, file)
    with pytest.raises(ValueError, match=r"it holds blocks\.00, .*blocks\.07 and 32 more$"):
        read_tracks(file)


def test_a_file_without_tracks_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"points": np.zeros((5, 8, 8, 3), np.float32)}, file)
    with pytest.raises(ValueError, match=r"other.safetensors lacks intrinsics; it holds points"):
        read_tracks(file)
    save_file({"points": np.zeros((5, 8, 3), np.float32), "intrinsics": np.eye(3, dtype=np.float32)}, file)
    with pytest.raises(ValueError, match=r"other.safetensors: points must be"):
        read_tracks(file)
    file.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="cannot be read as a scene folder or a safetensors file"):
        read_tracks(file)
    with pytest.raises(ValueError, match="cannot be read"):
        read_tracks(tmp_path / "none")
