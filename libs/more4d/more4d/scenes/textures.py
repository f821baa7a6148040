"""Colours of the ground, the backdrop and the objects, computed where a ray hits.

Colours are display values in [0, 1], float64 [N, 3]. Suffix N: hits.
"""

import numpy as np
from numpy.typing import NDArray

from more4d.scenes.gltf import SkinnedMesh
from more4d.scenes.palette import COATS
from more4d.scenes.spec import BackdropSpec, Colour, GroundSpec

Float = NDArray[np.float64]

_TILE = 32


def ground_colours(ground: GroundSpec, x_N: Float, z_N: Float, footprint_N: Float) -> Float:
    """The ground's colours at level-frame (x, z); `footprint_N` is a pixel's length there in metres.

    Patterns finer than a pixel fade into their mean.
    """
    angle = np.radians(ground.angle_degrees)
    a = (x_N * np.cos(angle) + z_N * np.sin(angle)) / ground.period
    b = (z_N * np.cos(angle) - x_N * np.sin(angle)) / ground.period
    sharp = np.clip(1.4 - 1.6 * footprint_N / ground.period, 0.0, 1.0)
    blur = footprint_N / ground.period
    mix = _PATTERNS[ground.kind](a, b, blur, value_tile(ground.seed))
    first, second = np.asarray(ground.colours[0]), np.asarray(ground.colours[1])
    mix = 0.5 + sharp * (mix - 0.5)
    return first + mix[:, None] * (second - first)


def value_tile(seed: int) -> Float:
    """Uniform random values [32, 32] that `value_noise` interpolates."""
    return np.random.default_rng(seed).random((_TILE, _TILE))


def value_noise(tile: Float, a: Float, b: Float) -> Float:
    """Smooth noise in [0, 1] at the coordinates, period 32."""
    floor_a, floor_b = np.floor(a), np.floor(b)
    s, t = a - floor_a, b - floor_b
    s, t = s * s * (3 - 2 * s), t * t * (3 - 2 * t)
    i0, j0 = floor_a.astype(np.intp) & (_TILE - 1), floor_b.astype(np.intp) & (_TILE - 1)
    i1, j1 = (i0 + 1) & (_TILE - 1), (j0 + 1) & (_TILE - 1)
    near = tile[i0, j0] + t * (tile[i0, j1] - tile[i0, j0])
    far = tile[i1, j0] + t * (tile[i1, j1] - tile[i1, j0])
    return near + s * (far - near)


def _edge(wave: Float, blur: Float) -> Float:
    """A square wave out of a sine-like one, as soft as the pixels are large."""
    return np.clip(0.5 + wave / (0.05 + 4 * blur), 0.0, 1.0)


def _checker(a: Float, b: Float, blur: Float, tile: Float) -> Float:
    return _edge(np.sin(np.pi * a) * np.sin(np.pi * b), blur)


def _stripes(a: Float, b: Float, blur: Float, tile: Float) -> Float:
    return _edge(np.sin(2 * np.pi * a) + 0.1, blur)


def _grass(a: Float, b: Float, blur: Float, tile: Float) -> Float:
    fine = np.clip(1.5 - 9 * blur, 0, 1) * (value_noise(tile, 9 * a, 9 * b) - 0.5)
    return np.clip(0.5 + 0.9 * (value_noise(tile, 1.7 * a, 1.7 * b) - 0.5) + 0.8 * fine, 0, 1)


def _sand(a: Float, b: Float, blur: Float, tile: Float) -> Float:
    bend = value_noise(tile, 1.3 * a, 1.3 * b)
    return np.clip(0.25 + 0.6 * bend + 0.22 * np.sin(2 * np.pi * (2 * a + 1.2 * bend)), 0, 1)


def _stone(a: Float, b: Float, blur: Float, tile: Float) -> Float:
    coarse = value_noise(tile, 2.3 * a, 2.3 * b)
    fine = np.clip(1.5 - 8 * blur, 0, 1) * (value_noise(tile, 8 * b, 8 * a) - 0.5)
    return np.clip(0.5 + 1.3 * (coarse - 0.5) + 0.7 * fine, 0, 1)


def _tiles(a: Float, b: Float, blur: Float, tile: Float) -> Float:
    from_line = np.minimum(np.abs(a - np.round(a)), np.abs(b - np.round(b)))
    line = np.clip(1 - (from_line - 0.03) / (0.02 + blur), 0, 1)
    cell = tile[np.floor(a).astype(np.intp) & (_TILE - 1), np.floor(b).astype(np.intp) & (_TILE - 1)]
    return np.maximum(line, 0.35 * cell)


_PATTERNS = {
    "checker": _checker,
    "stripes": _stripes,
    "grass": _grass,
    "sand": _sand,
    "stone": _stone,
    "tiles": _tiles,
}


def backdrop_colours(backdrop: BackdropSpec, azimuth_N: Float, rise_N: Float, texel: float) -> Float:
    """The backdrop's colours at an azimuth (radians) and a rise (tangent above the horizon).

    `texel` is a pixel's size in the same unit.
    """
    tile = value_tile(backdrop.seed)
    horizon, zenith, third = (np.asarray(colour) for colour in backdrop.colours)
    height = np.clip(rise_N / 0.6, 0, 1)[:, None]
    colours = horizon + np.sqrt(height) * (zenith - horizon)
    if backdrop.kind == "wall":
        return colours + _wall_lines(tile, azimuth_N, rise_N, texel)[:, None] * (third - colours)
    cloud = value_noise(tile, 5 * azimuth_N, 16 * rise_N)
    cloud += 0.5 * value_noise(tile, 11 * azimuth_N, 33 * rise_N)
    white = third if backdrop.kind == "sky" else np.ones(3)
    colours += (0.9 * np.clip(cloud - 0.85, 0, 0.5) * np.sqrt(height[:, 0]))[:, None] * (white - colours)
    if backdrop.kind == "hills":
        top = 0.02 + 0.10 * value_noise(tile, 7 * azimuth_N, 3.5 + 0 * rise_N)
        near = 0.05 * value_noise(tile, 13 * azimuth_N, 9.5 + 0 * rise_N)
        for ridge, tone in ((top, 0.55 * third + 0.45 * horizon), (near, third)):
            cover = np.clip(0.5 + (ridge - rise_N) / texel, 0, 1)[:, None]
            colours += cover * (tone - colours)
    return colours


def _wall_lines(tile: Float, azimuth_N: Float, rise_N: Float, texel: float) -> Float:
    """How dark [N] the joints and stains of a wall of panels are."""
    across = 6 * azimuth_N
    joint = np.clip(1 - (np.abs(across - np.round(across)) / 6 - 0.002) / texel, 0, 1)
    skirting = np.clip(0.5 + (0.012 - rise_N) / texel, 0, 1)
    return np.maximum(np.maximum(0.7 * joint, skirting), 0.3 * value_noise(tile, 4 * azimuth_N, 9 * rise_N))


def solid_mix(kind: str, pattern: int, phase: float, local_N3: Float) -> Float:
    """Share [N] of the second colour at points of the unit ball or the cube [-1, 1]^3."""
    x, y, z = local_N3[:, 0], local_N3[:, 1], local_N3[:, 2]
    if kind == "box":
        second = np.sort(np.abs(local_N3), axis=-1)[:, 1]
        if pattern == 0:
            return (second > 0.8).astype(np.float64)
        if pattern == 1:
            return (np.abs(y) < 0.22).astype(np.float64)
        return (second < 0.45).astype(np.float64)
    if pattern == 0:
        return (np.sin(3 * np.arctan2(y, x) + phase) > 0.35).astype(np.float64)
    if pattern == 1:
        return (np.abs(z * np.cos(phase) + y * np.sin(phase)) < 0.24).astype(np.float64)
    return (np.abs(local_N3).max(-1) > 0.93).astype(np.float64)


def fox_texture(mesh: SkinnedMesh, coat: str) -> Float:
    """The fox's texture [512, 512, 3] in the colour of its coat."""
    saturation, factor = COATS[coat]
    step = max(mesh.texture.shape[0] // 512, 1)
    texture = mesh.texture[::step, ::step].astype(np.float64) / 255
    grey = texture @ np.array([0.4, 0.45, 0.15])
    return np.clip((grey[..., None] + saturation * (texture - grey[..., None])) * factor, 0, 1)


def blend(colours: tuple[Colour, Colour], mix_N: Float) -> Float:
    """Colours [N, 3] between the first (mix 0) and the second (mix 1)."""
    first, second = np.asarray(colours[0]), np.asarray(colours[1])
    return first + mix_N[:, None] * (second - first)
