"""A scene that rays can be cast into: ground, backdrop and moving things.

Suffixes: T frames, N rays, P pixels of one frame. Everything is in the level frame (see `spec`).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from more4d.scenes.cameras import Cameras
from more4d.scenes.movers import FOX_FILE, Mover, build_movers
from more4d.scenes.raycast import intersect
from more4d.scenes.spec import SceneSpec
from more4d.scenes.textures import backdrop_colours, ground_colours

Float = NDArray[np.float64]
Index = NDArray[np.intp]


@dataclass(frozen=True)
class Hits:
    """Where rays meet one mover: which rays (ascending), at what depth, on which triangle."""

    rays: Index
    depth: Float
    triangles: NDArray[np.int32]
    weights: Float
    """Barycentric coordinates [N, 3]."""

    def only(self, keep_N: NDArray[np.bool_]) -> "Hits":
        """The hits that are kept."""
        return Hits(self.rays[keep_N], self.depth[keep_N], self.triangles[keep_N], self.weights[keep_N])


class Stage:
    """The posed scene."""

    def __init__(self, spec: SceneSpec, frames: int, fox_file: Path = FOX_FILE) -> None:
        self.spec, self.frames = spec, frames
        self.movers = build_movers(spec, frames, fox_file)
        self.ground_y = spec.camera.height
        azimuth, elevation = np.radians([spec.light.azimuth_degrees, spec.light.elevation_degrees])
        level = np.cos(elevation)
        self.to_light = np.array([level * np.cos(azimuth), -np.sin(elevation), level * np.sin(azimuth)])

    def hits(self, mover: Mover, frames_N: Index, origins_N3: Float, directions_N3: Float) -> Hits:
        """Exact first hits of the mover; frames ascend."""
        triangles = mover.first_hit(frames_N, origins_N3, directions_N3)
        rays = np.flatnonzero(triangles >= 0)
        triangles = triangles[rays]
        corners = mover.corners_at(frames_N[rays], triangles)
        depth, weights = intersect(origins_N3[rays], directions_N3[rays], corners)
        return Hits(rays, depth, triangles, weights)

    def background_depth(self, origins_N3: Float, directions_N3: Float) -> tuple[Float, NDArray[np.bool_]]:
        """Ray parameter [N] of the ground or the backdrop, and whether it is the ground."""
        down = directions_N3[:, 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            ground = np.where(down > 0, (self.ground_y - origins_N3[:, 1]) / down, np.inf)
        ox, oz, dx, dz = origins_N3[:, 0], origins_N3[:, 2], directions_N3[:, 0], directions_N3[:, 2]
        a, b = dx * dx + dz * dz, ox * dx + oz * dz
        wall = (-b + np.sqrt(b * b - a * (ox * ox + oz * oz - self.spec.backdrop.radius**2))) / a
        return np.minimum(ground, wall), ground < wall

    def depth(self, frames_N: Index, origins_N3: Float, directions_N3: Float) -> Float:
        """Ray parameter [N] of whatever comes first along each ray; frames ascend."""
        depth, _ = self.background_depth(origins_N3, directions_N3)
        for mover in self.movers:
            hits = self.hits(mover, frames_N, origins_N3, directions_N3)
            depth[hits.rays] = np.minimum(depth[hits.rays], hits.depth)
        return depth

    def background_colours(self, cameras: Cameras, origins: Float, directions: Float, depth: Float) -> Float:
        """Colours [N, 3] of ground and backdrop, lit, without shadows."""
        points = origins + depth[:, None] * directions
        ground = points[:, 1] > self.ground_y - 1e-6
        colours = np.empty_like(points)
        texel = 1.0 / cameras.intrinsics[0, 0]
        x, z = points[ground, 0], points[ground, 2]
        # A pixel covers depth/focal across, and more along the ground the flatter the ray is.
        slant = np.maximum(np.sqrt(1.0 / np.maximum(directions[ground, 1], 0.02)), 1)
        footprint = depth[ground] * texel * slant
        lit = self.shade(-self.to_light[1])
        colours[ground] = ground_colours(self.spec.ground, x, z, footprint) * lit
        far = points[~ground]
        radius = self.spec.backdrop.radius
        rise = (self.ground_y - far[:, 1]) / radius
        colours[~ground] = backdrop_colours(self.spec.backdrop, np.arctan2(far[:, 2], far[:, 0]), rise, texel)
        return colours * np.asarray(self.spec.light.tint)

    def shade(self, cosine: Float | float) -> Float:
        """How bright a surface is whose normal is at that cosine to the light (Lambert)."""
        return np.asarray(self.spec.light.ambient + self.spec.light.diffuse * cosine)

    @property
    def shadow_factor(self) -> float:
        """Brightness of shadowed ground over that of lit ground."""
        return float(self.shade(0.0) / self.shade(-self.to_light[1]))

    def shadow_points(self, mover: Mover) -> Float:
        """Where the light throws the mover's vertices onto the ground: [T, V, 3]."""
        vertices = mover.vertices
        travel = (self.ground_y - vertices[..., 1]) / -self.to_light[1]
        return vertices - travel[..., None] * self.to_light
