"""What moves but cannot be counted: snow, rain, sand, leaves, sparks, swarms, waves, smoke, and a sentence about it.

Suffixes: T frames, H height, W width, N particles.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from more4d.scenes.cameras import Cameras, level_from_world, pinhole_intrinsics
from more4d.scenes.spec import Colour, SceneSpec
from more4d.scenes.stage import Stage
from more4d.scenes.textures import value_noise, value_tile

Float = NDArray[np.float64]
Video = NDArray[np.uint8]


@dataclass(frozen=True)
class _Particles:
    """How many small things there are, how they look and how they go; sizes and speeds in picture heights (a second)."""

    count: tuple[int, int]
    radius: tuple[float, float]
    velocity: tuple[float, float]
    """Right and down."""
    wander: float
    """How far each strays from its course."""
    streak: float
    """Length of the trail that each leaves, in seconds."""
    colours: tuple[Colour, ...]
    captions: tuple[str, ...]
    gathered: bool = False
    """Around one point, not all over the picture."""


_WHITE, _PALE, _DARK = (0.97, 0.97, 0.99), (0.72, 0.78, 0.86), (0.12, 0.11, 0.12)
_SAND = ((0.93, 0.80, 0.55), (0.80, 0.66, 0.42), (0.98, 0.90, 0.70))
_LEAVES = ((0.80, 0.42, 0.10), (0.70, 0.20, 0.10), (0.86, 0.66, 0.16), (0.48, 0.50, 0.14))
_SPARKS = ((1.0, 0.85, 0.35), (1.0, 0.60, 0.15), (1.0, 0.95, 0.70))

_PARTICLES: dict[str, _Particles] = {
    "snow": _Particles(
        (80, 200), (0.008, 0.018), (0.05, 0.35), 0.03, 0.0, (_WHITE,),
        ("Snow falls gently in winter", "Snowflakes drift down in the cold air", "Heavy snowfall over the countryside"),
    ),
    "rain": _Particles(
        (80, 160), (0.005, 0.008), (0.10, 1.6), 0.0, 0.06, (_PALE,),
        ("Rain pours down on a grey afternoon", "Raindrops fall in a summer storm", "Heavy rain during a thunderstorm"),
    ),
    "sand": _Particles(
        (100, 220), (0.006, 0.014), (0.7, 0.02), 0.04, 0.0, _SAND,
        ("Sand drifts over the dunes", "Dust blows across dry land", "Grains of sand carried off by the wind"),
    ),
    "leaves": _Particles(
        (40, 90), (0.014, 0.03), (0.35, 0.25), 0.08, 0.0, _LEAVES,
        ("Autumn leaves swirl across the yard", "Dry leaves blow about in the wind", "Foliage flutters down in October"),
    ),
    "sparks": _Particles(
        (50, 120), (0.008, 0.018), (0.06, -0.5), 0.06, 0.02, _SPARKS,
        ("Sparks rise from a campfire", "Glowing embers float up at night", "Sparks fly from burning wood"),
    ),
    "swarm": _Particles(
        (60, 140), (0.006, 0.012), (0.05, 0.0), 0.16, 0.0, (_DARK,),
        ("A swarm whirls in the evening air", "Swarms of midges hover over a pond", "A distant flock wheels across the sky"),
        gathered=True,
    ),
}  # fmt: skip
_WAVES = (
    "Waves roll onto the beach", "Water ripples across the lake", "The sea sparkles at sunset",
    "Ocean waves break on the shore", "A river flows through the valley", "Sunlight glitters on the surface of the water",
)  # fmt: skip
_SMOKE = (
    "Smoke curls up from the ground", "Fog rolls over the fields in the morning", "White mist floats above the meadow",
    "Clouds of steam rise into the air", "Thick smoke billows after an explosion", "Clouds pass over the landscape",
)  # fmt: skip


DRIFTING_CAPTIONS: dict[str, tuple[str, ...]] = {
    **{kind: particles.captions for kind, particles in _PARTICLES.items()},
    "waves": _WAVES,
    "smoke": _SMOKE,
}
"""The captions that `drift` draws from, by what it paints."""


def drift(spec: SceneSpec, empty_HW3: Video, frames: int, rng: np.random.Generator) -> tuple[Video, str]:
    """A video [T, H, W, 3] of something uncountable in the empty scene, whose picture is given, and its caption."""
    kind = tuple(DRIFTING_CAPTIONS)[int(rng.integers(len(DRIFTING_CAPTIONS)))]
    if kind in _PARTICLES:
        video = _fly(_PARTICLES[kind], empty_HW3, frames, spec.fps, rng)
    else:
        video = (_wave if kind == "waves" else _billow)(spec, empty_HW3, frames, rng)
    captions = DRIFTING_CAPTIONS[kind]
    return video, captions[int(rng.integers(len(captions)))]


def _fly(particles: _Particles, empty: Video, frames: int, fps: float, rng: np.random.Generator) -> Video:
    height = empty.shape[0]
    count = int(rng.integers(*particles.count))
    radii = rng.uniform(*particles.radius, count) * height
    colours = 255 * np.asarray(particles.colours)[rng.integers(len(particles.colours), size=count)]
    place = _courses(particles, count, empty.shape[1] / height, rng)
    video = np.tile(empty, (frames, 1, 1, 1))
    for time, image in enumerate(video):
        now, before = place(time / fps), place(time / fps - particles.streak)
        for begin, end, radius, colour in zip(before * height, now * height, radii, colours, strict=True):
            _draw(image, begin, end, radius, colour)
    return video


def _courses(particles: _Particles, count: int, aspect: float, rng: np.random.Generator) -> Callable[[float], Float]:
    """Seconds -> positions [N, 2] in picture heights; what leaves the picture comes in again on the other side."""
    turn = 1 if rng.random() < 0.5 else -1
    velocity = np.array(particles.velocity) * [turn, 1] * rng.uniform(0.7, 1.3, (count, 1))
    size = np.array([aspect, 1.0])
    start = rng.normal(0.5, 0.1, (count, 2)) * size if particles.gathered else rng.random((count, 2)) * size
    phase, rate = rng.uniform(0, 2 * np.pi, (count, 2)), rng.uniform(2, 6, (count, 2))

    def place(seconds: float) -> Float:
        stray = particles.wander * (np.sin(phase + rate * seconds) - np.sin(phase))
        return np.mod(start + velocity * seconds + stray + 0.1, size + 0.2) - 0.1

    return place


_SUBPIXEL = 4
"""Bits of OpenCV's fractional coordinates."""


def _draw(image: Video, begin: Float, end: Float, radius: float, colour: Float) -> None:
    scale = 1 << _SUBPIXEL
    first, last = (tuple(int(v) for v in np.round(place * scale)) for place in (begin, end))
    if np.abs(end - begin).max() > 0.5 * max(image.shape):
        first = last  # It came in again on the other side between the two.
    if first == last:
        cv2.circle(image, last, max(round(radius * scale), 8), colour.tolist(), -1, cv2.LINE_AA, _SUBPIXEL)
    else:
        cv2.line(image, first, last, colour.tolist(), 1, cv2.LINE_AA, _SUBPIXEL)


def _wave(spec: SceneSpec, empty: Video, frames: int, rng: np.random.Generator) -> Video:
    """The ground beyond a shore becomes water: a sum of sines that run in several directions."""
    x, z, ground = _ground_points(spec, *empty.shape[:2])
    wet = z > np.quantile(z, rng.uniform(0.3, 0.5))
    ground[ground], x, z = wet, x[wet], z[wet]
    azimuth = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.6, 0.6, 5)
    length = rng.uniform(0.25, 1.4, 5)
    speed, phase = np.sqrt(1.5 * length), rng.uniform(0, 2 * np.pi, 5)
    # Waves shorter than a pixel far away would only flicker.
    fade = np.clip(1.5 - 0.12 * z[:, None] / length, 0, 1)
    deep, crest = np.array([0.10, 0.28, 0.40]), np.array([0.75, 0.86, 0.90])
    video = np.tile(empty, (frames, 1, 1, 1))
    for time, image in enumerate(video):
        way = x[:, None] * np.cos(azimuth) + z[:, None] * np.sin(azimuth) - speed * time / spec.fps
        swell = (fade * np.sin(2 * np.pi * way / length + phase)).sum(1) / 5
        mix = np.clip(0.3 + 1.2 * swell, 0, 1)[:, None]
        image[ground] = np.round(255 * (deep + mix * (crest - deep)))
    return video


def _ground_points(spec: SceneSpec, height: int, width: int) -> tuple[Float, Float, NDArray[np.bool_]]:
    """Level-frame x and z [N] of what the pixels see of the ground, and which pixels [H, W] do."""
    intrinsics = pinhole_intrinsics(spec.camera, height, width)
    cameras = Cameras.of_world(np.eye(4)[None], level_from_world(spec.camera), intrinsics, height, width)
    origins, rays = cameras.rays(np.zeros(height * width, np.intp), cameras.pixel_directions())
    depth, ground = Stage(spec, 1).background_depth(origins, rays)
    points = origins + depth[:, None] * rays
    return points[ground, 0], points[ground, 2], ground.reshape(height, width)


def _billow(spec: SceneSpec, empty: Video, frames: int, rng: np.random.Generator) -> Video:
    """Clouds of noise that rise or pass, and change as they go."""
    height, width = empty.shape[:2]
    row, column = np.mgrid[:height, :width] / height
    tiles = [value_tile(int(rng.integers(2**31))) for _ in range(2)]
    velocity = rng.uniform(-0.3, 0.3), rng.uniform(-0.4, -0.1)
    tone = 255 * rng.uniform(0.75, 0.97)
    video = np.tile(empty, (frames, 1, 1, 1))
    for time, image in enumerate(video):
        right, down = (speed * time / spec.fps for speed in velocity)
        coarse = value_noise(tiles[0], 3 * (column - right), 3 * (row - down))
        fine = value_noise(tiles[1], 7 * (column - 1.4 * right), 7 * (row - 1.4 * down))
        cover = np.clip(1.6 * (0.65 * coarse + 0.35 * fine - 0.35), 0, 0.75)[..., None]
        image[:] = np.round((1 - cover) * image + cover * tone)
    return video
