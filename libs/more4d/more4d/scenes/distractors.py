"""Rendered clips that no 4D scene can be made of: what curation must reject, each at its place.

Suffixes: T frames, H height, W width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from more4d.scenes.drifting import drift
from more4d.scenes.movers import FOX_FILE, rotation_about
from more4d.scenes.render import film_scene
from more4d.scenes.spec import ObjectSpec, SceneConfig, SceneSpec
from more4d.scenes.world import sample_scene

Float = NDArray[np.float64]
Video = NDArray[np.uint8]

DistractorKind = Literal["camera", "still", "uncountable", "cuts"]
DISTRACTOR_KINDS: tuple[DistractorKind, ...] = get_args(DistractorKind)

CameraMove = Literal["pan", "tilt", "truck", "dolly", "orbit", "shake"]
CAMERA_MOVES: tuple[CameraMove, ...] = get_args(CameraMove)
_OTHER_SCENES = 10**12
"""What a clip of several scenes adds to its seed for each: far from the seeds of every scene of its own."""


@dataclass(frozen=True)
class Distractor:
    """A clip without truth: nothing in it is a point trajectory that a model should learn."""

    kind: DistractorKind
    caption: str
    video: Video
    """[T, H, W, 3] RGB; of `cuts`, at least as many frames as were asked for."""


def render_distractor(
    kind: DistractorKind,
    seed: int,
    config: SceneConfig,
    *,
    frames: int,
    height: int,
    width: int,
    fox_file: Path = FOX_FILE,
) -> Distractor:
    """The distractor of a kind and a seed, on the scene that `sample_scene` draws for the seed.

    - camera: it pans, tilts, trucks, dollies, orbits or shakes, before things that move or that stand still
    - still: nothing moves; half of them have a sensor's noise or a flickering light
    - uncountable: snow, rain, sand, leaves, sparks, a swarm, waves or smoke move, and nothing else
    - cuts: two or three scenes one after the other, each shorter than `frames`, together at least as long

    Raises FileNotFoundError if a scene has a fox and `fox_file` is missing, ValueError for fewer than 2 frames.
    """
    if frames < 2:
        raise ValueError(f"frames={frames}; a distractor needs at least 2")
    rng = np.random.default_rng([seed, 5])
    make = {"camera": _camera, "still": _still, "uncountable": _uncountable, "cuts": _cuts}[kind]
    caption, video = make(seed, config, rng, _Picture(frames, height, width, fox_file))
    return Distractor(kind, caption, video)


@dataclass(frozen=True)
class _Picture:
    frames: int
    height: int
    width: int
    fox_file: Path

    def film(self, spec: SceneSpec, poses: Float) -> Video:
        return film_scene(spec, poses, height=self.height, width=self.width, fox_file=self.fox_file)

    def at_rest(self, frames: int) -> Float:
        return np.tile(np.eye(4), (frames, 1, 1))


def _camera(seed: int, config: SceneConfig, rng: np.random.Generator, picture: _Picture) -> tuple[str, Video]:
    spec = sample_scene(seed, config)
    move = CAMERA_MOVES[int(rng.integers(len(CAMERA_MOVES)))]
    poses = camera_move(move, spec, picture.frames, rng)
    if rng.random() < 0.5:
        return spec.caption, picture.film(spec, poses)
    # By its caption alone nobody would reject it: what moves is the camera, and captions seldom say so.
    return f"A walk around {_things(spec)}", picture.film(standing_still(spec), poses)


def _still(seed: int, config: SceneConfig, rng: np.random.Generator, picture: _Picture) -> tuple[str, Video]:
    spec = standing_still(sample_scene(seed, config))
    image = picture.film(spec, picture.at_rest(1))[0]
    noise, flicker = (rng.uniform(1, 5), 0.0) if rng.random() < 0.35 else (0.0, 0.0)
    if not noise and rng.random() < 0.25:
        flicker = rng.uniform(0.01, 0.04)
    shape = (picture.frames, *image.shape)
    light = 1 + flicker * rng.standard_normal((picture.frames, 1, 1, 1))
    video = np.clip(np.round(image * light + noise * rng.standard_normal(shape)), 0, 255).astype(np.uint8)
    caption = sample_scene(seed, config).caption if rng.random() < 0.5 else f"A view of {_things(spec)}"
    return caption, video


def _uncountable(seed: int, config: SceneConfig, rng: np.random.Generator, picture: _Picture) -> tuple[str, Video]:
    # Empty: a spec is refused without an object where it is read, not where it is copied.
    spec = sample_scene(seed, config).model_copy(update={"objects": ()})
    video, caption = drift(spec, picture.film(spec, picture.at_rest(1))[0], picture.frames, rng)
    return caption, video


def _cuts(seed: int, config: SceneConfig, rng: np.random.Generator, picture: _Picture) -> tuple[str, Video]:
    scenes = [sample_scene(seed + n * _OTHER_SCENES, config) for n in range(int(rng.integers(2, 4)))]
    lengths = rng.integers((picture.frames + 1) // 2, picture.frames, size=len(scenes))
    parts = [picture.film(scene, picture.at_rest(int(n))) for scene, n in zip(scenes, lengths, strict=True)]
    return ", then ".join(scene.caption for scene in scenes), np.concatenate(parts)


def standing_still(spec: SceneSpec) -> SceneSpec:
    """The scene with every object at rest where it starts."""
    rest = {"speed": 0.0, "rate": 0.0, "bounce": 0.0}
    return spec.model_copy(update={"objects": tuple(thing.model_copy(update=rest) for thing in spec.objects)})


def _things(spec: SceneSpec) -> str:
    return " and ".join(_named(thing) for thing in spec.objects)


def _named(thing: ObjectSpec) -> str:
    noun = f"{thing.colour} {thing.kind}".strip()
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def camera_move(move: CameraMove, spec: SceneSpec, frames: int, rng: np.random.Generator) -> Float:
    """Camera-to-world poses [T, 4, 4], the first the identity: one move at an even pace, or a hand that shakes."""
    done = np.linspace(0, 1, frames)
    away = spec.objects[0].start_z
    poses = np.tile(np.eye(4), (frames, 1, 1))
    side = 1 if rng.random() < 0.5 else -1
    if move in ("pan", "tilt"):
        degrees = rng.uniform(4, 20) if move == "pan" else rng.uniform(3, 8)
        poses[:, :3, :3] = rotation_about(_DOWN if move == "pan" else _RIGHT, side * np.radians(degrees) * done)
    elif move == "truck":
        poses[:, :3, 3] = side * rng.uniform(0.12, 0.4) * away * done[:, None] * _RIGHT
    elif move == "dolly":
        poses[:, :3, 3] = side * rng.uniform(0.15, 0.35) * away * done[:, None] * _FORWARD
    elif move == "orbit":
        poses[:, :3, :3] = rotation_about(_DOWN, side * np.radians(rng.uniform(8, 30)) * done)
        poses[:, :3, 3] = away * (_FORWARD - poses[:, :3, 2])
    else:
        for axis, degrees in zip((_RIGHT, _DOWN, _FORWARD), rng.uniform((1, 1.5, 0.5), (2.5, 3, 2)), strict=True):
            swing = np.sin(2 * np.pi * rng.uniform(0.8, 2) * done + rng.uniform(0, 2 * np.pi))
            poses[:, :3, :3] = poses[:, :3, :3] @ rotation_about(axis, np.radians(degrees) * (swing - swing[0]))
    return poses


_RIGHT, _DOWN, _FORWARD = np.eye(3)
