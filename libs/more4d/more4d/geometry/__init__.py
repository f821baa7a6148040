"""Geometry: cameras, camera paths, photos at the model's size, and motion in units of the viewing frustum."""

from more4d.geometry.cameras import (
    CoverCrop,
    intrinsics_from_fov,
    invert_pose,
    look_at,
    move_intrinsics,
    pixel_centres,
    project,
    resize_cover,
    transform,
    unproject,
)
from more4d.geometry.images import fit_image, load_image
from more4d.geometry.motion import denormalize_motion, motion_from_points, normalize_motion, points_from_motion
from more4d.geometry.paths import CAMERA_NAMES, camera_path, scene_centre

__all__ = [
    "CAMERA_NAMES",
    "CoverCrop",
    "camera_path",
    "denormalize_motion",
    "fit_image",
    "intrinsics_from_fov",
    "invert_pose",
    "load_image",
    "look_at",
    "motion_from_points",
    "move_intrinsics",
    "normalize_motion",
    "pixel_centres",
    "points_from_motion",
    "project",
    "resize_cover",
    "scene_centre",
    "transform",
    "unproject",
]
