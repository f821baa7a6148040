"""One scene as a page of its own: the interactive 4D view, the photo and the novel-view videos in a single file."""

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from more4d.inference.scene import CameraView, Scene
from more4d.report.pack import moving, pack_scene
from more4d.report.pictures import VIDEO_WIDTH, image_url, resize, stripe_holes, video_base64

_PHOTO_WIDTH = 720


@dataclass(frozen=True)
class SceneCard:
    """A scene as the templates take it: text, data URLs and the JSON for the viewer and the players."""

    prompt: str
    width: int
    height: int
    frames: int
    photo: str
    facts: tuple[tuple[str, str], ...]
    cameras: tuple[str, ...]
    packed: dict[str, Any]
    videos: dict[str, dict[str, str]]


def scene_page(scene: Scene) -> str:
    """The scene's page as HTML that needs no other file and no network; what `index.html` of a scene folder holds."""
    return render_template("scene.html.j2", scene=scene_card(scene))


def scene_card(scene: Scene) -> SceneCard:
    """The scene with its points packed and its pictures and videos encoded."""
    height, width = scene.image.shape[:2]
    return SceneCard(
        prompt=scene.prompt,
        width=width,
        height=height,
        frames=len(scene.points),
        photo=image_url(scene.image, width=min(_PHOTO_WIDTH, max(width, 288))),
        facts=scene_facts(scene),
        cameras=tuple(scene.views),
        packed=pack_scene(scene),
        videos={camera: _videos(view, scene.fps) for camera, view in scene.views.items()},
    )


def scene_facts(scene: Scene) -> tuple[tuple[str, str], ...]:
    """Names and values to show beside the photo."""
    depth = scene.depth[scene.valid]
    moved = moving(scene.points)[scene.valid].mean()
    facts = [
        ("points", f"{len(depth):,}"),
        ("moving", f"{moved:.1%}"),
        ("depth", f"{depth.min():.1f} to {depth.max():.1f} m"),
        ("length", f"{len(scene.points)} frames at {scene.fps:g}/s"),
        ("seed", str(scene.seed)),
    ]
    if "total" in scene.timings:
        facts.append(("made in", f"{scene.timings['total']:.1f} s"))
    if scene.credit.source:
        facts.append(("photo", ", ".join(filter(None, (scene.credit.attribution, scene.credit.licence)))))
    return tuple(facts)


def _videos(view: CameraView, fps: float) -> dict[str, str]:
    return {
        "completed": video_base64(resize(view.video, VIDEO_WIDTH), fps),
        "render": video_base64(stripe_holes(view.render, view.covered, VIDEO_WIDTH), fps),
    }


def render_template(name: str, **values: Any) -> str:  # noqa: ANN401 - whatever the template shows
    """The template filled in: every value escaped, styles and script inlined, the network closed by policy."""
    script = "".join(asset(name) for name in ("base64.js", "viewer.js", "page.js"))
    return (
        environment()
        .get_template(name)
        .render(styles=asset("page.css"), script=script, policy=content_policy(script), **values)
    )


def content_policy(script: str, images: str = "data:") -> str:
    """A Content-Security-Policy that runs this one script, by its hash, and fetches nothing but `images`."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src {images}; "
        "media-src blob: data:; base-uri 'none'; form-action 'none'"
    )


@cache
def environment() -> Environment:
    """The templates; autoescape on, and a name that nobody filled in is an error."""
    return Environment(
        loader=PackageLoader("more4d.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def asset(name: str) -> str:
    """The text of a style sheet or script of this package."""
    return files("more4d.report").joinpath("assets", name).read_text(encoding="utf-8")
