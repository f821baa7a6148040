"""Skinned, animated meshes out of self-contained glTF 2.0 files.

Suffixes: V vertices, F faces, J joints, K key frames.
"""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_DTYPES = {5121: "u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


@dataclass(frozen=True)
class Animation:
    """Local joint poses at key times that all joints share."""

    times: NDArray[np.float64]
    rotations: NDArray[np.float64]
    """Unit quaternions, xyzw."""
    translations: NDArray[np.float64]


@dataclass(frozen=True)
class SkinnedMesh:
    """A textured mesh bound to a skeleton; vertices that share position and weights are merged."""

    vertices: NDArray[np.float64]
    weights: NDArray[np.float64]
    faces: NDArray[np.int32]
    uv: NDArray[np.float64]
    """Texture coordinates of each face's corners, origin at the top left."""
    parents: tuple[int, ...]
    """Index of each joint's parent joint, -1 for a root; parents come before children."""
    inverse_bind: NDArray[np.float64]
    animations: dict[str, Animation]
    texture: NDArray[np.uint8]
    copyright: str


def load_skinned_mesh(path: Path) -> SkinnedMesh:
    """The first skin of the glTF file at `path`; buffers and images must be embedded as data URIs.

    Raises ValueError if a part is missing or lies outside the file.
    """
    document = json.loads(path.read_text())
    if not document.get("skins") or not document.get("animations"):
        raise ValueError(f"{path} holds no skin or no animation; an articulated glTF 2.0 file is needed")
    buffer = _data_uri(document["buffers"][0]["uri"], path)
    skin = document["skins"][0]
    joints = list(skin["joints"])
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    corners = {name: _accessor(document, buffer, index) for name, index in attributes.items()}
    vertices, weights, faces = _merge_corners(corners, len(joints))
    inverse_bind = _accessor(document, buffer, skin["inverseBindMatrices"])
    texture = Image.open(io.BytesIO(_data_uri(document["images"][0]["uri"], path))).convert("RGB")
    return SkinnedMesh(
        vertices=vertices,
        weights=weights,
        faces=faces,
        uv=corners["TEXCOORD_0"].reshape(-1, 3, 2).astype(np.float64),
        parents=_parents(document["nodes"], joints),
        inverse_bind=inverse_bind.reshape(-1, 4, 4).transpose(0, 2, 1).astype(np.float64),
        animations={a["name"]: _animation(document, buffer, a, joints) for a in document["animations"]},
        texture=np.asarray(texture),
        copyright=document["asset"].get("copyright", ""),
    )


def pose(mesh: SkinnedMesh, animation: str, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vertices [T, V, 3] at `times` (seconds; the animation repeats), by linear-blend skinning."""
    if animation not in mesh.animations:
        raise ValueError(f"no animation {animation!r}; the mesh has {sorted(mesh.animations)}")
    local = _local_poses(mesh.animations[animation], np.asarray(times, dtype=np.float64))
    world = np.empty_like(local)
    for joint, parent in enumerate(mesh.parents):
        world[:, joint] = local[:, joint] if parent < 0 else world[:, parent] @ local[:, joint]
    skin_TJ12 = (world @ mesh.inverse_bind)[:, :, :3, :].reshape(len(times), -1, 12)
    blended = (mesh.weights @ skin_TJ12).reshape(len(times), -1, 3, 4)
    return np.einsum("tvij,vj->tvi", blended[..., :3], mesh.vertices) + blended[..., 3]


def _local_poses(animation: Animation, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrices [T, J, 4, 4]: key frames interpolated (normalised lerp for the rotations)."""
    keys = animation.times
    within = keys[0] + np.mod(times, keys[-1] - keys[0])
    right = np.clip(np.searchsorted(keys, within, side="right"), 1, len(keys) - 1)
    blend = ((within - keys[right - 1]) / (keys[right] - keys[right - 1]))[:, None, None]
    first, second = animation.rotations[right - 1], animation.rotations[right]
    second = np.where((first * second).sum(-1, keepdims=True) < 0, -second, second)
    rotation = first + blend * (second - first)
    matrices = np.zeros((*rotation.shape[:2], 4, 4))
    matrices[..., :3, :3] = quaternion_matrices(rotation / np.linalg.norm(rotation, axis=-1, keepdims=True))
    translations = animation.translations
    matrices[..., :3, 3] = (1 - blend) * translations[right - 1] + blend * translations[right]
    matrices[..., 3, 3] = 1
    return matrices


def quaternion_matrices(quaternions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrices [..., 3, 3] of unit quaternions [..., 4] in xyzw order."""
    x, y, z, w = np.moveaxis(quaternions, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _data_uri(uri: str, path: Path) -> bytes:
    if not uri.startswith("data:"):
        raise ValueError(f"{path} refers to the file {uri!r}; only embedded data URIs are read")
    return base64.b64decode(uri.split(",", 1)[1])


def _accessor(document: dict[str, Any], buffer: bytes, index: int) -> NDArray[Any]:
    """The accessor's elements as an array [count, width]."""
    accessor = document["accessors"][index]
    view = document["bufferViews"][accessor["bufferView"]]
    dtype, width = np.dtype(_DTYPES[accessor["componentType"]]), _WIDTHS[accessor["type"]]
    offset = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    strides = (view.get("byteStride", dtype.itemsize * width), dtype.itemsize)
    return np.ndarray((accessor["count"], width), dtype, buffer, offset, strides).copy()


def _merge_corners(
    corners: dict[str, NDArray[Any]], joints: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int32]]:
    """Vertices, dense weights and faces of a triangle soup whose coinciding corners are joined."""
    count = len(corners["POSITION"])
    weights = np.zeros((count, joints))
    np.add.at(weights, (np.arange(count)[:, None], corners["JOINTS_0"]), corners["WEIGHTS_0"])
    weights /= weights.sum(-1, keepdims=True)
    keys = np.concatenate([corners["POSITION"], weights], axis=1).round(5)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    faces = inverse.reshape(-1, 3).astype(np.int32)
    return corners["POSITION"][first].astype(np.float64), weights[first], faces


def _parents(nodes: list[dict[str, Any]], joints: list[int]) -> tuple[int, ...]:
    parent_of = {child: index for index, node in enumerate(nodes) for child in node.get("children", [])}
    parents = tuple(joints.index(parent_of[j]) if parent_of.get(j) in joints else -1 for j in joints)
    if any(parent >= index for index, parent in enumerate(parents)):
        raise ValueError("the skin lists a joint before its parent; only parent-first skins are read")
    return parents


def _animation(document: dict[str, Any], buffer: bytes, animation: dict[str, Any], joints: list[int]) -> Animation:
    inputs = {sampler["input"] for sampler in animation["samplers"]}
    if len(inputs) != 1:
        raise ValueError(f"animation {animation['name']!r} has {len(inputs)} sets of key times; one is read")
    times = _accessor(document, buffer, inputs.pop())[:, 0].astype(np.float64)
    nodes = [document["nodes"][joint] for joint in joints]
    rotations = np.tile([node.get("rotation", [0.0, 0.0, 0.0, 1.0]) for node in nodes], (len(times), 1, 1))
    translations = np.tile([node.get("translation", [0.0, 0.0, 0.0]) for node in nodes], (len(times), 1, 1))
    targets = {"rotation": rotations, "translation": translations}
    for channel in animation["channels"]:
        values = _accessor(document, buffer, animation["samplers"][channel["sampler"]]["output"])
        targets[channel["target"]["path"]][:, joints.index(channel["target"]["node"])] = values
    return Animation(times, rotations, translations)
