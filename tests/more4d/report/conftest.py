"""Synthetic scenes (a textured wall and a ball that crosses it), pages of them, and a real Chromium to open them in."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from more4d.inference.scene import CameraView, Credit, Scene
from more4d.report.model import (
    Acknowledgement,
    Comparison,
    Curve,
    Estimate,
    FunnelStep,
    GalleryItem,
    MeasureRow,
    MeasureTable,
    PageData,
    Run,
    StageTime,
)
from more4d.report.viewer import scene_page
from playwright.sync_api import Browser, Page, Playwright

MakeScene = Callable[..., Scene]
OpenPage = Callable[..., Page]
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
# Playwright's own wait_for_function needs eval, which the pages' policy forbids.
UNTIL = """
window.until = async (condition) => {
  for (const start = Date.now(); !condition(); ) {
    if (Date.now() - start > 30000) throw new Error(`still not true after 30 s: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
};
"""


def ball_scene(
    name: str = "ball", prompt: str = "a red ball rolls to the right", *, height: int = 48, width: int = 72
) -> Scene:
    """A ball of radius 0.5 m at 2.5 m that moves 1.2 m to the right before a checkered wall at 4 m; 7 frames."""
    frames, focal = 7, 0.9 * width
    intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], np.float32)
    v, u = np.indices((height, width)) + 0.5
    rays = np.stack([(u - width / 2) / focal, (v - height / 2) / focal, np.ones((height, width))], -1)
    centre = np.array([-0.6, 0.3, 2.5])
    along = (rays @ centre) / (rays**2).sum(-1)
    gap = 0.25 - ((rays * along[..., None] - centre) ** 2).sum(-1)
    ball = gap > 0
    depth = np.where(ball, along - np.sqrt(np.maximum(gap, 0) / (rays**2).sum(-1)), 4.0)
    points = np.repeat((rays * depth[..., None])[None], frames, 0)
    points[:, ball, 0] += np.linspace(0, 1.2, frames)[:, None]
    checks = ((u // 9 + v // 9) % 2)[..., None] * [40, 50, 60] + [110, 140, 150]
    image = np.where(ball[..., None], [210, 70, 50], checks).astype(np.uint8)
    return Scene(
        name=name,
        prompt=prompt,
        image=image,
        points=points.astype(np.float32),
        visibility=np.ones((frames, height, width), bool),
        intrinsics=intrinsics,
        fps=8.0,
        seed=7,
        views={camera: _view(image, frames) for camera in ("static", "circle_left")},
        credit=Credit("a test", "nobody", "CC0-1.0"),
        timings={"total": 3.21},
    )


def _view(image: np.ndarray, frames: int) -> CameraView:
    video = np.stack([np.roll(image, t, axis=1) for t in range(frames)])
    covered = np.ones(video.shape[:3], bool)
    covered[:, :, :9] = False
    poses = np.repeat(np.eye(4, dtype=np.float32)[None], frames, 0)
    return CameraView(poses, video, np.where(covered[..., None], video, 0).astype(np.uint8), covered)


def full_page(scenes: tuple[Scene, ...]) -> PageData:
    """A page with something in every part."""
    picture = scenes[0].image
    table = MeasureTable(
        title="Trajectory error",
        reading="1 is the error of predicting that nothing moves; lower is better.",
        columns=("moving pixels", "all pixels"),
        rows=(
            MeasureRow("4D-STraG", (Estimate(0.61, 0.57, 0.66), Estimate(0.92)), ours=True),
            MeasureRow("nothing moves", (Estimate(1.0), None), note="every point stays"),
        ),
        reference=1.0,
        chart_column=0,
    )
    step = np.arange(10, 110, 10).astype(float)
    return PageData(
        run=Run("tiny", "0", "abc1234"),
        scenes=scenes,
        tables=(table,),
        curves=(Curve("4D-STraG", step, {"loss": 1 / step, "gradient_norm": step}),),
        gallery=(
            GalleryItem("c-0", "a ball", "rendered", True, "trajscene", "", (("first frame", picture),)),
            GalleryItem("c-1", "a cut", "real", False, "clips", "0.9 static", (("first frame", picture),)),
        ),
        funnel=(FunnelStep("source", 12), FunnelStep("clips", 10, (("static", 2),))),
        times=(StageTime("source", 3.2), StageTime("strag", 184.0)),
        comparisons=(Comparison("v-0", "a held-out ball", (("true tracks", picture), ("predicted tracks", picture))),),
        acknowledgements=(Acknowledgement("Fox", "PixelMannen, tomkranis", "CC BY 4.0"),),
    )


@contextmanager
def opened(
    browser: Browser, html: str, folder: Path, *, init_script: str = "", width: int = 1200, height: int = 900
) -> Iterator[Page]:
    """A page of this HTML, opened as a file; at the end, no console error and no request out may have occurred."""
    faults: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": height})
    page.on("console", lambda m: faults.append(f"console: {m.text}") if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on(
        "request",
        lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else faults.append(f"request: {r.url}"),
    )
    page.add_init_script(UNTIL + init_script)
    path = folder / "index.html"
    path.write_text(html, encoding="utf-8")
    page.goto(path.as_uri())
    try:
        yield page
    finally:
        page.close()
    assert faults == []


@pytest.fixture(scope="session")
def make_scene() -> MakeScene:
    return ball_scene


@pytest.fixture(scope="session")
def make_page() -> Callable[[tuple[Scene, ...]], PageData]:
    return full_page


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM_FLAGS)
    yield chromium
    chromium.close()


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[OpenPage]:
    """Opens HTML text in the browser; see `opened`."""
    with ExitStack() as stack:

        def open_html(html: str, **options: Any) -> Page:
            return stack.enter_context(opened(browser, html, tmp_path, **options))

        yield open_html


@pytest.fixture(scope="module")
def shared_page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page of a ball's scene, opened once for all tests of a module."""
    with opened(browser, scene_page(ball_scene()), tmp_path_factory.mktemp("scene")) as page:
        yield page
