from pathlib import Path

import numpy as np
import pytest
from more4d.scenes.gltf import SkinnedMesh, load_skinned_mesh, pose
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp


@pytest.fixture(scope="module")
def fox(fox_file: Path) -> SkinnedMesh:
    return load_skinned_mesh(fox_file)


def joint_matrix(fox: SkinnedMesh, animation: str, joint: int, time: float) -> NDArray[np.float64]:
    """The joint's matrix by recursion and slerp, one joint and one time at a time."""
    track = fox.animations[animation]
    local = np.eye(4)
    local[:3, :3] = Slerp(track.times, Rotation.from_quat(track.rotations[:, joint]))(time).as_matrix()
    local[:3, 3] = [np.interp(time, track.times, track.translations[:, joint, axis]) for axis in range(3)]
    parent = fox.parents[joint]
    return local if parent < 0 else joint_matrix(fox, animation, parent, time) @ local


@pytest.mark.parametrize("animation", ["Survey", "Walk", "Run"])
def test_skinning_agrees_with_one_vertex_at_a_time(fox: SkinnedMesh, animation: str) -> None:
    time = 0.37
    posed = pose(fox, animation, np.array([0.1, time]))[1]
    for vertex in (0, 57, 123, 289):
        expected = np.zeros(3)
        for joint in np.flatnonzero(fox.weights[vertex]):
            matrix = joint_matrix(fox, animation, int(joint), time) @ fox.inverse_bind[joint]
            expected += fox.weights[vertex, joint] * (matrix @ [*fox.vertices[vertex], 1])[:3]
        # Key frames lie close: a normalised lerp and a slerp differ by a fraction of a millimetre.
        np.testing.assert_allclose(posed[vertex], expected, atol=0.02)


def test_an_animation_repeats(fox: SkinnedMesh) -> None:
    period = np.ptp(fox.animations["Walk"].times)
    np.testing.assert_allclose(
        pose(fox, "Walk", np.array([0.2])), pose(fox, "Walk", np.array([0.2 + period])), atol=1e-6
    )


def test_the_fox_is_a_small_mesh_that_credits_its_makers(fox: SkinnedMesh) -> None:
    assert fox.faces.shape == (576, 3) and fox.vertices.shape == (290, 3)
    np.testing.assert_allclose(fox.weights.sum(-1), 1)
    assert "PixelMannen" in fox.copyright


def test_an_unknown_animation_is_refused_by_name(fox: SkinnedMesh) -> None:
    with pytest.raises(ValueError, match=r"no animation 'Fly'; the mesh has \['Run', 'Survey', 'Walk'\]"):
        pose(fox, "Fly", np.zeros(1))


def test_a_file_without_a_skeleton_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "still.gltf"
    path.write_text('{"asset": {"version": "2.0"}}')
    with pytest.raises(ValueError, match="holds no skin"):
        load_skinned_mesh(path)
