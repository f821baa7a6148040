"""Random scenes: one object that moves by itself, sometimes two, on a textured ground under one light."""

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from more4d.scenes.captions import write_caption
from more4d.scenes.palette import COATS, GROUND_COLOURS, OBJECT_COLOURS, SKIES
from more4d.scenes.spec import (
    BackdropKind,
    BackdropSpec,
    CameraSpec,
    Direction,
    GroundKind,
    GroundSpec,
    LightSpec,
    ObjectSpec,
    SceneConfig,
    SceneSpec,
)

T = TypeVar("T")

ASPECT = 1.5
"""Width over height that the objects are placed for."""
FOX_HEIGHT, FOX_LENGTH = 0.79, 1.55
_AZIMUTH = {"right": 0.0, "away": 90.0, "left": 180.0, "towards": 270.0}
_FOX_SHARES = {"walk": (0.34, 0.46), "run": (0.3, 0.42), "survey": (0.38, 0.5)}
"""Share of the frame's height that a fox seen from the side takes."""
_NATURAL_PACE = {"walk": 1.0, "run": 1.9}
"""Speed in m/s at which a fox's paws do not slide, played at rate 1 and scale 1."""


def sample_scene(seed: int, config: SceneConfig | None = None) -> SceneSpec:
    """The scene of a seed: every random choice is made here."""
    config = config or SceneConfig()
    rng = np.random.default_rng([seed, 4])
    fov_x = rng.uniform(44, 56)
    main, distance = _main_object(rng, config, fov_x)
    objects = (main,)
    if rng.random() < config.pair_share:
        objects = (main, _second_object(rng, config, main, fov_x))
    ground = _ground(rng)
    return SceneSpec(
        seed=seed,
        caption=write_caption(objects, ground, rng),
        kind="+".join(thing.kind for thing in objects),
        direction=main.direction,
        fps=config.fps,
        camera=_camera(rng, fov_x, distance, main),
        light=_light(rng),
        ground=ground,
        backdrop=_backdrop(rng),
        objects=objects,
    )


def _pick(rng: np.random.Generator, options: Sequence[T], shares: Sequence[float] | None = None) -> T:
    """One of the options, equally likely or by their shares."""
    return options[int(rng.choice(len(options), p=shares))]


def _half_width(fov_x: float, distance: float) -> float:
    """Metres from the optical axis to the frame's side at that distance."""
    return distance * math.tan(math.radians(fov_x) / 2)


def _distance(fov_x: float, height: float, share: float) -> float:
    """How far an object of that height must be to fill that share of the frame's height."""
    return height / share * ASPECT / (2 * math.tan(math.radians(fov_x) / 2))


def _main_object(rng: np.random.Generator, config: SceneConfig, fov_x: float) -> tuple[ObjectSpec, float]:
    """The first object and its distance from the camera."""
    if rng.random() < config.fox_share:
        return _fox(rng, config, fov_x)
    kind: Literal["ball", "box"] = "ball" if rng.random() < 2 / 3 else "box"
    half = rng.uniform(0.3, 0.5)
    distance = _distance(fov_x, 2 * half, rng.uniform(0.3, 0.44) if kind == "ball" else rng.uniform(0.26, 0.37))
    return _solid(rng, config, kind, half, distance, fov_x), distance


def _fox(rng: np.random.Generator, config: SceneConfig, fov_x: float) -> tuple[ObjectSpec, float]:
    """A fox whose whole path is centred, so that it stays in the frame; its body tells the heading anyway."""
    scale = rng.uniform(0.85, 1.2)
    action: Literal["walk", "run", "survey"] = _pick(rng, ("walk", "run", "survey"), (0.4, 0.42, 0.18))
    direction, azimuth = _fox_heading(rng, action)
    low, high = (0.42, 0.54) if direction in ("towards", "away") else _FOX_SHARES[action]
    distance = _distance(fov_x, FOX_HEIGHT * scale, rng.uniform(low, high))
    half_width, across = _half_width(fov_x, distance), abs(math.cos(math.radians(azimuth)))
    room = (2 * half_width - 0.85 * FOX_LENGTH * scale * across) / max(across, 0.1)
    pace = {"walk": rng.uniform(0.4, 0.75), "run": rng.uniform(0.85, 1.3), "survey": 0.0}[action]
    speed = min(pace, room / config.seconds)
    travel = speed * config.seconds
    fox = ObjectSpec(
        kind="fox",
        action=action,
        direction=direction,
        colour=_pick(rng, tuple(COATS), (0.55, 0.15, 0.15, 0.15)),
        start_x=rng.uniform(-0.1, 0.1) * half_width - travel / 2 * math.cos(math.radians(azimuth)),
        start_z=distance - travel / 2 * math.sin(math.radians(azimuth)),
        azimuth_degrees=azimuth,
        speed=speed,
        size=(scale, scale, scale),
        yaw_degrees=0.0,
        pattern=0,
        phase=rng.uniform(0, 4),
        rate=1.0 if action == "survey" else speed / (_NATURAL_PACE[action] * scale),
        bounce=0.0,
    )
    return fox, distance


def _fox_heading(rng: np.random.Generator, action: str) -> tuple[Direction, float]:
    """The direction that the caption names, and the azimuth, which may be oblique."""
    side: Direction = "left" if rng.random() < 0.5 else "right"
    if action == "survey":
        return "none", _AZIMUTH[side] + rng.uniform(-60, 60)
    if rng.random() < 0.2:
        along: Direction = "towards" if rng.random() < 0.5 else "away"
        return along, _AZIMUTH[along] + rng.uniform(-20, 20)
    return side, _AZIMUTH[side] + rng.uniform(-40, 40)


def _solid(
    rng: np.random.Generator,
    config: SceneConfig,
    kind: Literal["ball", "box"],
    half: float,
    distance: float,
    fov_x: float,
) -> ObjectSpec:
    """A ball or box that starts near the middle whichever way it goes: only the caption tells."""
    direction: Direction = _pick(rng, ("left", "right", "towards", "away"), (0.37, 0.37, 0.13, 0.13))
    azimuth = _AZIMUTH[direction] + rng.uniform(-14, 14)
    room = _half_width(fov_x, distance) - half
    share = rng.uniform(0.3, 0.8) if direction in ("left", "right") else rng.uniform(0.25, 0.5)
    action: Literal["slide", "bounce", "roll"] = (
        "slide" if kind == "box" else ("bounce" if rng.random() < 0.35 else "roll")
    )
    width, depth = half * rng.uniform(0.75, 1.3, size=2) if kind == "box" else (half, half)
    return ObjectSpec(
        kind=kind,
        action=action,
        direction=direction,
        colour=_pick(rng, tuple(OBJECT_COLOURS)),
        start_x=rng.uniform(-0.2, 0.2) * room,
        start_z=distance + rng.uniform(-0.1, 0.1),
        azimuth_degrees=azimuth,
        speed=min(share * room / config.seconds, 1.1),
        size=(width, half, depth),
        yaw_degrees=rng.uniform(0, 90) if kind == "box" else 0.0,
        pattern=int(rng.integers(3)),
        phase=rng.uniform(0, 2 * math.pi),
        rate=1.0,
        bounce=rng.uniform(0.5, 0.9) * half * 1.3 if action == "bounce" else 0.0,
    )


def _second_object(rng: np.random.Generator, config: SceneConfig, main: ObjectSpec, fov_x: float) -> ObjectSpec:
    """A ball or box in a lane behind the first object's, so that the two never meet."""
    kind: Literal["ball", "box"] = "ball" if rng.random() < 0.6 else "box"
    half = rng.uniform(0.25, 0.4)
    travel_z = main.speed * config.seconds * math.sin(math.radians(main.azimuth_degrees))
    reach = FOX_LENGTH * main.size[0] if main.kind == "fox" else 1.5 * main.size[0]
    lane = main.start_z + max(travel_z, 0.0) + reach / 2 + 1.4 * half + rng.uniform(0.3, 0.8)
    thing = _solid(rng, config, kind, half, lane, fov_x)
    direction: Direction = "left" if rng.random() < 0.5 else "right"
    free = [name for name in OBJECT_COLOURS if name != main.colour]
    side = 1.0 if main.start_x < 0 else -1.0
    changes: dict[str, Any] = {
        "direction": direction,
        "azimuth_degrees": _AZIMUTH[direction] + rng.uniform(-8, 8),
        "colour": _pick(rng, free),
        "start_x": side * rng.uniform(0.15, 0.45) * _half_width(fov_x, lane),
        "start_z": lane,
        "speed": min(thing.speed, 0.35 * _half_width(fov_x, lane) / config.seconds),
    }
    return thing.model_copy(update=changes)


def _camera(rng: np.random.Generator, fov_x: float, distance: float, main: ObjectSpec) -> CameraSpec:
    """A camera that looks at the main object from somewhat above."""
    height = distance * math.tan(math.radians(rng.uniform(8, 24))) + 0.35
    target = FOX_HEIGHT * main.size[1] * 0.5 if main.kind == "fox" else main.size[1] + main.bounce / 2
    pitch = math.degrees(math.atan2(height - target, distance)) + rng.uniform(-2.5, 1.5)
    return CameraSpec(fov_x_degrees=fov_x, height=height, pitch_degrees=pitch)


def _light(rng: np.random.Generator) -> LightSpec:
    warm = rng.uniform(-0.04, 0.06)
    return LightSpec(
        azimuth_degrees=rng.uniform(0, 360),
        elevation_degrees=rng.uniform(42, 72),
        ambient=rng.uniform(0.42, 0.55),
        diffuse=rng.uniform(0.5, 0.68),
        tint=(1 + warm, 1.0, 1 - warm),
    )


def _ground(rng: np.random.Generator) -> GroundSpec:
    kind: GroundKind = _pick(rng, tuple(GROUND_COLOURS))
    pairs = GROUND_COLOURS[kind]
    first, second = pairs[int(rng.integers(len(pairs)))]
    return GroundSpec(
        kind=kind,
        colours=(first, second),
        period=rng.uniform(0.7, 1.3),
        angle_degrees=rng.uniform(0, 90),
        seed=int(rng.integers(2**31)),
    )


def _backdrop(rng: np.random.Generator) -> BackdropSpec:
    kind: BackdropKind = _pick(rng, tuple(SKIES), (0.3, 0.45, 0.25))
    return BackdropSpec(
        kind=kind,
        colours=SKIES[kind][int(rng.integers(len(SKIES[kind])))],
        radius=rng.uniform(12, 25),
        seed=int(rng.integers(2**31)),
    )
