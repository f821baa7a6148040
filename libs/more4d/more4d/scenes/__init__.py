"""Rendered scenes with exact ground truth: sampled by seed, ray cast, captioned."""

from more4d.scenes.captions import swap_direction
from more4d.scenes.distractors import DISTRACTOR_KINDS, Distractor, DistractorKind, render_distractor
from more4d.scenes.parallel import render_scenes
from more4d.scenes.render import RenderedScene, View, render_scene
from more4d.scenes.spec import SceneConfig, SceneSpec
from more4d.scenes.world import sample_scene

__all__ = [
    "DISTRACTOR_KINDS",
    "Distractor",
    "DistractorKind",
    "RenderedScene",
    "SceneConfig",
    "SceneSpec",
    "View",
    "render_distractor",
    "render_scene",
    "render_scenes",
    "sample_scene",
    "swap_direction",
]
