"""The things that move: their vertices at every frame, what rays hit of them, and how they are shaded.

Suffixes: T frames, V vertices, F faces, N hits. Everything is in the level frame (see `spec`).
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray

from more4d.scenes.gltf import SkinnedMesh, load_skinned_mesh, pose
from more4d.scenes.palette import OBJECT_COLOURS
from more4d.scenes.raycast import Caster, cross, dot
from more4d.scenes.spec import ObjectSpec, SceneSpec
from more4d.scenes.textures import blend, fox_texture, solid_mix

Float = NDArray[np.float64]
Int = NDArray[np.int32]
Index = NDArray[np.intp]

FOX_FILE = Path(".cache/packaged/fox/Fox.gltf")
"""Where `python -m more4d.data.packaged` puts the fox, relative to the workspace."""
_FOX_UNIT = 0.01
_ANIMATIONS = {"walk": "Walk", "run": "Run", "survey": "Survey"}
_DOWN = np.array([0.0, 1.0, 0.0])
_GRAVITY = 5.0
"""Softer than the Earth's, so that eight frames a second show the bounces."""


class Mover(ABC):
    """One moving mesh: its vertices [T, V, 3] and its triangles' corners [T, F, 9] in the level frame."""

    def __init__(self, vertices_TV3: Float, faces_F3: Int) -> None:
        self.vertices = vertices_TV3
        # One row a triangle: gathering rows is several times faster than gathering corners one by one.
        self.corners = vertices_TV3[:, faces_F3].reshape(len(vertices_TV3), len(faces_F3), 9)

    @abstractmethod
    def first_hit(self, frames_N: Index, origins_N3: Float, directions_N3: Float) -> Int:
        """Index [N] of the triangle that each ray hits at its frame, -1 for none; frames ascend."""

    @abstractmethod
    def occluded(self, frames_N: Index, origins_N3: Float, directions_N3: Float) -> NDArray[np.bool_]:
        """Whether [N] the mover lies along each ray; frames ascend."""

    @abstractmethod
    def colours(self, frames_N: Index, triangles_N: Int, weights_N3: Float, to_light: Float) -> tuple[Float, Float]:
        """Surface colour [N, 3] and cosine [N] to the light, not negative."""

    def corners_at(self, frames_N: Index, triangles_N: Int) -> Float:
        """Corners [N, 9] of the triangles at the frames."""
        return self.corners.reshape(-1, 9).take(frames_N * self.corners.shape[1] + triangles_N, axis=0)

    def trajectories(self, triangles_N: Int, weights_N3: Float) -> Float:
        """Where the surface points are at every frame: [T, N, 3]."""
        corners = self.corners.take(triangles_N, axis=1).reshape(len(self.corners), len(triangles_N), 3, 3)
        return sum((weights_N3[:, k, None] * corners[:, :, k] for k in range(3)), start=np.zeros(3))


class Solid(Mover):
    """A rigid ball or box: one shared mesh, rays brought into its frame."""

    def __init__(self, spec: ObjectSpec, rotations_T33: Float, centres_T3: Float) -> None:
        self._spec, self._rotations, self._centres = spec, rotations_T33, centres_T3
        self._local, faces, self._caster = unit_mesh(spec.kind)
        self._size = np.asarray(spec.size)
        vertices = (self._local * self._size) @ rotations_T33.transpose(0, 2, 1) + centres_T3[:, None]
        super().__init__(vertices, faces)
        self._local_F9 = self._local[faces].reshape(-1, 9)

    def first_hit(self, frames_N: Index, origins_N3: Float, directions_N3: Float) -> Int:
        return self._caster.first_hit(*self._to_local(frames_N, origins_N3, directions_N3))

    def occluded(self, frames_N: Index, origins_N3: Float, directions_N3: Float) -> NDArray[np.bool_]:
        return self._caster.occluded(*self._to_local(frames_N, origins_N3, directions_N3))

    def _to_local(self, frames_N: Index, origins_N3: Float, directions_N3: Float) -> tuple[Float, Float]:
        """The rays in the frame in which the mesh has unit size and does not move."""
        origins, directions = np.empty_like(origins_N3), np.empty_like(directions_N3)
        for frame, part in _per_frame(frames_N, len(self._rotations)):
            to_local = self._rotations[frame] / self._size
            origins[part] = (origins_N3[part] - self._centres[frame]) @ to_local
            directions[part] = directions_N3[part] @ to_local
        return origins, directions

    def colours(self, frames_N: Index, triangles_N: Int, weights_N3: Float, to_light: Float) -> tuple[Float, Float]:
        corners = self._local_F9.take(triangles_N, axis=0).reshape(-1, 3, 3)
        local = np.einsum("nk,nkc->nc", weights_N3, corners)
        light = (to_light @ self._rotations)[frames_N]
        ball = self._spec.kind == "ball"
        normals = local / np.sqrt(dot(local, local))[:, None] if ball else _box_normals()[triangles_N]
        mix = solid_mix(self._spec.kind, self._spec.pattern, self._spec.phase, local)
        return blend(OBJECT_COLOURS[self._spec.colour], mix), np.maximum(dot(normals, light), 0)


class Fox(Mover):
    """The skinned fox: one small mesh a frame."""

    def __init__(self, spec: ObjectSpec, mesh: SkinnedMesh, vertices_TV3: Float) -> None:
        super().__init__(vertices_TV3, mesh.faces)
        self._faces, self._uv, self._texture = mesh.faces, mesh.uv, _coat(mesh, spec.colour)
        self._normals = vertex_normals(vertices_TV3, mesh.faces)
        self._casters: dict[int, Caster] = {}

    def first_hit(self, frames_N: Index, origins_N3: Float, directions_N3: Float) -> Int:
        triangles = np.empty(len(frames_N), dtype=np.int32)
        for frame, part in _per_frame(frames_N, len(self.vertices)):
            triangles[part] = self._caster(frame).first_hit(origins_N3[part], directions_N3[part])
        return triangles

    def occluded(self, frames_N: Index, origins_N3: Float, directions_N3: Float) -> NDArray[np.bool_]:
        blocked = np.empty(len(frames_N), dtype=bool)
        for frame, part in _per_frame(frames_N, len(self.vertices)):
            blocked[part] = self._caster(frame).occluded(origins_N3[part], directions_N3[part])
        return blocked

    def _caster(self, frame: int) -> Caster:
        if frame not in self._casters:
            self._casters[frame] = Caster(self.corners[frame].reshape(-1, 3, 3))
        return self._casters[frame]

    def colours(self, frames_N: Index, triangles_N: Int, weights_N3: Float, to_light: Float) -> tuple[Float, Float]:
        uv = np.einsum("nk,nkc->nc", weights_N3, self._uv[triangles_N])
        height, width = self._texture.shape[:2]
        column = np.clip((uv[:, 0] * width).astype(np.intp), 0, width - 1)
        row = np.clip((uv[:, 1] * height).astype(np.intp), 0, height - 1)
        shade = np.maximum(self._normals @ to_light, 0)
        cosine = np.einsum("nk,nk->n", weights_N3, shade[frames_N[:, None], self._faces[triangles_N]])
        return self._texture[row, column], np.maximum(cosine, 0)


def _per_frame(frames_N: Index, frames: int) -> Iterator[tuple[int, slice]]:
    """Every frame that occurs in the ascending `frames_N`, and where."""
    bounds = np.searchsorted(frames_N, np.arange(frames + 1))
    for frame in range(frames):
        if bounds[frame] < bounds[frame + 1]:
            yield frame, slice(bounds[frame], bounds[frame + 1])


def build_movers(spec: SceneSpec, frames: int, fox_file: Path = FOX_FILE) -> list[Mover]:
    """The scene's objects, posed at every frame.

    Raises FileNotFoundError if the scene has a fox and `fox_file` does not exist.
    """
    times = np.arange(frames) / spec.fps
    return [
        _build_fox(thing, times, spec.camera.height, fox_file)
        if thing.kind == "fox"
        else _build_solid(thing, times, spec.camera.height)
        for thing in spec.objects
    ]


def heading(thing: ObjectSpec) -> Float:
    """The unit vector along which the object moves (or, standing, looks)."""
    azimuth = np.radians(thing.azimuth_degrees)
    return np.array([np.cos(azimuth), 0.0, np.sin(azimuth)])


def _ground_track(thing: ObjectSpec, times: Float) -> Float:
    start = np.array([thing.start_x, 0.0, thing.start_z])
    return start + (thing.speed * times)[:, None] * heading(thing)


def _build_solid(thing: ObjectSpec, times: Float, ground_y: float) -> Solid:
    centres = _ground_track(thing, times)
    centres[:, 1] = ground_y - thing.size[1] - _bounce_height(thing.bounce, times)
    if thing.kind == "box":
        rotations = rotation_about(_DOWN, np.full(len(times), np.radians(thing.yaw_degrees)))
    else:
        # Rolling without slipping: the point that touches the ground stands still.
        rotations = rotation_about(cross(heading(thing), _DOWN), thing.speed * times / thing.size[1])
    return Solid(thing, rotations, centres)


def _bounce_height(apex: float, times: Float) -> Float:
    """Height above rest, from the highest point at time 0, without loss."""
    if apex == 0:
        return np.zeros_like(times)
    period = 2 * np.sqrt(2 * apex / _GRAVITY)
    part = np.mod(times / period + 0.5, 1.0)
    return apex * 4 * part * (1 - part)


def _build_fox(thing: ObjectSpec, times: Float, ground_y: float, fox_file: Path) -> Fox:
    mesh = load_fox(fox_file)
    model = pose(mesh, _ANIMATIONS[thing.action], thing.phase + thing.rate * times)
    # The model looks along its z axis with y up.
    forward = heading(thing)
    basis = np.stack([cross(-_DOWN, forward), -_DOWN, forward]) * (_FOX_UNIT * thing.size[0])
    track = _ground_track(thing, times)
    track[:, 1] = ground_y
    vertices = (model.reshape(-1, 3) @ basis).reshape(model.shape) + track[:, None]
    return Fox(thing, mesh, vertices)


@functools.cache
def load_fox(path: Path) -> SkinnedMesh:
    """The fox's mesh, read once a process."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; fetch it with `python -m more4d.data.packaged --out {path.parent.parent}`"
        )
    return load_skinned_mesh(path)


_COATS: dict[tuple[int, str], Float] = {}


def _coat(mesh: SkinnedMesh, coat: str) -> Float:
    """The fox's texture in that coat, made once a process."""
    key = (id(mesh), coat)
    if key not in _COATS:
        _COATS[key] = fox_texture(mesh, coat)
    return _COATS[key]


@functools.cache
def unit_mesh(kind: str) -> tuple[Float, Int, Caster]:
    """Vertices, faces and caster of the unit ball or of the cube [-1, 1]^3."""
    mesh = trimesh.creation.icosphere(3) if kind == "ball" else trimesh.creation.box((2, 2, 2))
    vertices, faces = np.array(mesh.vertices, dtype=np.float64), np.array(mesh.faces, dtype=np.int32)
    return vertices, faces, Caster(vertices[faces])


@functools.cache
def _box_normals() -> Float:
    """Outward unit normals [F, 3] of the cube's faces."""
    vertices, faces, _ = unit_mesh("box")
    corners = vertices[faces]
    return corners.mean(axis=1) * (np.ptp(corners, axis=1) == 0)


def rotation_about(axis_3: Float, angles_T: Float) -> Float:
    """Rotation matrices [T, 3, 3] about a unit axis (Rodrigues)."""
    x, y, z = axis_3
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    sine, cosine = np.sin(angles_T)[:, None, None], np.cos(angles_T)[:, None, None]
    return np.eye(3) + sine * skew + (1 - cosine) * (skew @ skew)


def vertex_normals(vertices_TV3: Float, faces_F3: Int) -> Float:
    """Area-weighted unit normals [T, V, 3]; every vertex must belong to a face."""
    corners_F3T3 = vertices_TV3.transpose(1, 0, 2)[faces_F3]
    first, second, third = corners_F3T3[:, 0], corners_F3T3[:, 1], corners_F3T3[:, 2]
    normals_FT3 = cross(second - first, third - first)
    by_vertex = np.argsort(faces_F3.ravel(), kind="stable")
    starts = np.searchsorted(faces_F3.ravel()[by_vertex], np.arange(vertices_TV3.shape[1]))
    total_VT3 = np.add.reduceat(normals_FT3[by_vertex // 3], starts, axis=0)
    lengths = np.maximum(np.sqrt(dot(total_VT3, total_VT3)), 1e-12)
    return (total_VT3 / lengths[..., None]).transpose(1, 0, 2)
