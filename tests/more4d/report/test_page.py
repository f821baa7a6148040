"""The result page in a real Chromium. The fixture `open_page` fails a test on console errors and requests."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from more4d.inference.scene import Scene
from more4d.report.model import PageData
from more4d.report.page import duration, render_page, write_page
from more4d.report.viewer import scene_page
from playwright.sync_api import Page

MakeScene = Callable[..., Scene]
MakePage = Callable[[tuple[Scene, ...]], PageData]
OpenPage = Callable[..., Page]

HOSTILE = """</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">{{ 7*7 }}<!--'"&$x$"""


def test_every_part_is_on_the_page(open_page: OpenPage, make_scene: MakeScene, make_page: MakePage) -> None:
    page = open_page(render_page(make_page((make_scene(),))))
    text = page.locator("body").inner_text()
    for words in (
        "tiny", "abc1234", "a red ball rolls to the right", "0.610", "[0.570–0.660]", "nothing moves", "2 × static",
        "0.9 static", "3 min 04 s", "UniDepthV2", "PixelMannen", "CC BY 4.0", "a held-out ball",
    ):  # fmt: skip
        assert words in text
    assert page.locator("#training svg").count() == 1 and page.locator("#evaluation svg").count() == 1


def test_the_page_leads_to_that_of_the_curated_data_where_there_is_one() -> None:
    link = '<a href="data/index.html">'
    assert link in render_page(PageData(data_report="data/index.html")) and link not in render_page(PageData())


def test_videos_play_and_the_camera_can_be_chosen(open_page: OpenPage, make_scene: MakeScene) -> None:
    page = open_page(scene_page(make_scene()))
    loaded = (
        "until(() => [...document.querySelectorAll('video')].every(v => v.readyState >= 2 && v.videoWidth === 384))"
    )
    page.evaluate(loaded)
    before = page.evaluate("document.querySelector('video.completed').src")
    page.click("text=circle left")
    page.evaluate(loaded)
    assert page.evaluate("document.querySelector('video.completed').src") != before
    assert page.get_attribute("[data-camera=circle_left]", "aria-pressed") == "true"
    page.evaluate("until(() => document.querySelector('video.completed').currentTime > 0.1)")


def test_a_hostile_prompt_is_shown_as_text(open_page: OpenPage, make_scene: MakeScene, make_page: MakePage) -> None:
    page = open_page(render_page(make_page((make_scene(name=HOSTILE, prompt=HOSTILE),))))
    page.evaluate("until(() => more4dViewers[0].ready)")
    assert page.evaluate("window.hacked ?? null") is None
    assert HOSTILE in page.locator("article.scene h3").inner_text()
    assert page.evaluate("more4dViewers[0].packed.name") == HOSTILE


COUNT_CONTEXTS = """
  window.contexts = 0;
  const get = HTMLCanvasElement.prototype.getContext;
  HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
    if (kind === "webgl2") window.contexts++;
    return get.call(this, kind, ...rest);
  };"""


def test_many_views_wait_until_they_are_seen_and_share_one_graphics_context(
    open_page: OpenPage, make_scene: MakeScene, make_page: MakePage
) -> None:
    scenes = tuple(replace(make_scene(name=str(i), height=24, width=36), views={}) for i in range(20))
    page = open_page(render_page(make_page(scenes)), init_script=COUNT_CONTEXTS, height=600)
    page.evaluate("until(() => more4dViewers[0].ready)")
    assert page.evaluate("more4dViewers.filter(v => v.ready).length") <= 3
    page.locator("figure.viewer").nth(19).scroll_into_view_if_needed()
    page.evaluate("until(() => more4dViewers[19].ready && more4dViewers[19].buffers && !more4dViewers[0].buffers)")
    assert page.evaluate("contexts") == 1


def test_an_empty_workspace_gives_a_page_that_says_what_is_missing(open_page: OpenPage) -> None:
    page = open_page(render_page(PageData(problems=("results/evaluation/evaluation.json: not JSON",))))
    notices = page.locator("section .absent").all_inner_texts()
    assert len(notices) == 5
    assert "python -m more4d.stages scenes" in notices[0]
    assert page.locator(".problem").inner_text() == "results/evaluation/evaluation.json: not JSON"


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_window(
    open_page: OpenPage, make_scene: MakeScene, make_page: MakePage, width: int
) -> None:
    page = open_page(render_page(make_page((make_scene(prompt="word" * 60),))), width=width)
    page.locator("figure.viewer").scroll_into_view_if_needed()
    page.evaluate("until(() => more4dViewers[0].ready)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_page_names_no_address_and_the_policy_closes_the_network(
    make_scene: MakeScene, make_page: MakePage
) -> None:
    html = render_page(make_page((make_scene(),)))
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", html)
    assert "default-src &#39;none&#39;" in html and "connect-src" not in html


def test_the_same_data_gives_the_same_bytes(tmp_path: Path, make_scene: MakeScene, make_page: MakePage) -> None:
    for name in ("a.html", "b.html"):
        write_page(make_page((make_scene(),)), tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.html", "b.html"]


def test_durations_read_as_people_say_them() -> None:
    assert [duration(s) for s in (0.42, 9.96, 38.2, 200, 7500)] == [
        "0.4 s",
        "10.0 s",
        "38 s",
        "3 min 20 s",
        "2 h 05 min",
    ]
