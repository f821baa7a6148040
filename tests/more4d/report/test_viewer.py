"""The interactive view in a real Chromium. The fixture `open_page` fails a test on console errors and requests."""

import hashlib
from collections.abc import Callable

import pytest
from more4d.inference.scene import Scene
from more4d.report.viewer import scene_page
from playwright.sync_api import Page

MakeScene = Callable[..., Scene]
OpenPage = Callable[..., Page]


def wait_until_drawn(page: Page) -> None:
    page.evaluate("until(() => more4dViewers[0].ready && !more4dViewers[0].dirty)")


def picture(page: Page) -> str:
    """A hash of the canvas."""
    pixels = page.evaluate("document.querySelector('canvas').toDataURL()")
    return hashlib.sha256(pixels.encode()).hexdigest()


def still(page: Page, frame: float = 0) -> None:
    """Stops playing and swaying, at the photo's camera."""
    page.evaluate("frame => { const v = more4dViewers[0]; v.reset(); v.seek(frame); }", frame)
    wait_until_drawn(page)


def colours(page: Page) -> dict[str, float]:
    """Shares of red (the ball), light (the wall) and background pixels on the canvas."""
    return page.evaluate(
        """() => {
          const c = document.querySelector("canvas"), copy = new OffscreenCanvas(c.width, c.height).getContext("2d");
          copy.drawImage(c, 0, 0);
          const d = copy.getImageData(0, 0, c.width, c.height).data;
          const count = { red: 0, wall: 0, empty: 0 };
          for (let i = 0; i < d.length; i += 4) {
            if (d[i] > 150 && d[i + 2] < 100) count.red++;
            else if (d[i + 2] > 120) count.wall++;
            else if (d[i] < 40) count.empty++;
          }
          return Object.fromEntries(Object.entries(count).map(([k, n]) => [k, (4 * n) / d.length]));
        }"""
    )


@pytest.fixture
def page(shared_page: Page) -> Page:
    """The scene's page as if just opened, but at the photo's camera."""
    wait_until_drawn(shared_page)
    shared_page.evaluate("const v = more4dViewers[0]; v.reset(); v.setTrails(false); v.seek(0); v.setPlaying(true)")
    shared_page.evaluate("document.activeElement.blur()")
    return shared_page


def test_the_first_view_is_the_photo(page: Page, make_scene: MakeScene) -> None:
    still(page)
    shares = colours(page)
    ball = (make_scene().image[..., 0] == 210).mean()
    assert shares["red"] == pytest.approx(0.96**2 * ball, abs=0.03)
    assert shares["wall"] + shares["red"] > 0.9


def test_it_plays_by_itself_and_the_picture_changes(page: Page) -> None:
    page.evaluate("more4dViewers[0].reset()")
    assert page.evaluate("more4dViewers[0].playing")
    page.evaluate("until(() => more4dViewers[0].frame > 1)")
    page.click("figure.viewer .play")
    assert not page.evaluate("more4dViewers[0].playing")
    later = picture(page)
    still(page)
    assert picture(page) != later


def test_points_travel_and_uncover_what_was_never_seen(page: Page) -> None:
    still(page, 0)
    before = colours(page)
    still(page, 6)
    after = colours(page)
    assert after["red"] == pytest.approx(before["red"], rel=0.2)
    assert after["empty"] > before["empty"] + 0.05


def test_a_drag_turns_the_view_and_a_double_click_brings_it_back(page: Page) -> None:
    still(page)
    before = picture(page)
    box = page.locator("canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 180, box["y"] + 70, steps=4)
    page.mouse.up()
    wait_until_drawn(page)
    yaw, pitch = page.evaluate("[more4dViewers[0].yaw, more4dViewers[0].pitch]")
    assert yaw < -0.1 and pitch < -0.05
    assert picture(page) != before
    page.locator("canvas").dblclick()
    wait_until_drawn(page)
    assert picture(page) == before


def test_the_wheel_zooms_only_a_view_that_was_clicked(page: Page) -> None:
    still(page)
    page.locator("canvas").hover()
    page.mouse.wheel(0, 100)
    assert page.evaluate("more4dViewers[0].zoom") == 1
    page.locator("canvas").click()
    page.mouse.wheel(0, 100)
    page.evaluate("until(() => more4dViewers[0].zoom > 1.05)")


def test_keys_play_turn_and_step(page: Page) -> None:
    still(page)
    page.locator("canvas").focus()
    page.keyboard.press("Space")
    assert page.evaluate("more4dViewers[0].playing")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowLeft")
    wait_until_drawn(page)
    assert page.evaluate("more4dViewers[0].yaw") > 0.05
    still(page, 2)
    page.locator(".time").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("more4dViewers[0].frame") == 3


def test_scrubbing_shows_that_moment(page: Page) -> None:
    page.evaluate("more4dViewers[0].reset()")
    page.locator(".time").fill("4.5")
    wait_until_drawn(page)
    assert page.evaluate("[more4dViewers[0].frame, more4dViewers[0].playing]") == [4.5, False]
    assert page.locator(".clock").inner_text() == "0.56 s"


def test_trails_are_drawn_when_asked_for(page: Page) -> None:
    still(page, 6)
    before = picture(page)
    page.click("figure.viewer .trails")
    wait_until_drawn(page)
    assert page.get_attribute("figure.viewer .trails", "aria-pressed") == "true"
    assert picture(page) != before


def test_two_fingers_zoom(page: Page) -> None:
    still(page)
    page.evaluate(
        """() => {
          const canvas = document.querySelector("canvas");
          canvas.setPointerCapture = () => {};
          const touch = (type, id, x) => canvas.dispatchEvent(
            new PointerEvent(type, { pointerId: id, pointerType: "touch", clientX: x, clientY: 100 }));
          touch("pointerdown", 1, 100); touch("pointerdown", 2, 200);
          touch("pointermove", 2, 300); touch("pointerup", 1, 100); touch("pointerup", 2, 300);
        }"""
    )
    assert page.evaluate("more4dViewers[0].zoom") == pytest.approx(0.5)


def test_a_page_at_rest_draws_nothing(page: Page) -> None:
    still(page)
    page.evaluate("() => { more4dViewers[0].draw = () => { window.drawn = true; }; }")
    page.wait_for_timeout(150)
    assert not page.evaluate("() => { delete more4dViewers[0].draw; return window.drawn ?? false; }")


def test_a_view_recovers_from_a_lost_graphics_context(open_page: OpenPage, make_scene: MakeScene) -> None:
    keep_context = """
      const get = HTMLCanvasElement.prototype.getContext;
      HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
        const context = get.call(this, kind, ...rest);
        if (kind === "webgl2") window.graphics = context;
        return context;
      };"""
    page = open_page(scene_page(make_scene()), init_script=keep_context)
    wait_until_drawn(page)
    still(page)
    before = colours(page)
    page.evaluate("window.loss = graphics.getExtension('WEBGL_lose_context'); loss.loseContext()")
    page.evaluate("until(() => graphics.isContextLost())")
    page.evaluate("loss.restoreContext()")
    page.evaluate("until(() => !graphics.isContextLost())")
    wait_until_drawn(page)
    assert colours(page) == before


def test_without_webgl2_the_view_says_so_and_the_videos_still_play(open_page: OpenPage, make_scene: MakeScene) -> None:
    no_webgl = """
      const get = HTMLCanvasElement.prototype.getContext;
      HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
        return kind === "webgl2" ? null : get.call(this, kind, ...rest);
      };"""
    page = open_page(scene_page(make_scene()), init_script=no_webgl)
    page.wait_for_selector(".viewer-message:visible")
    assert "WebGL2" in page.locator(".viewer-message").inner_text()
    page.evaluate("until(() => document.querySelector('video.completed').readyState >= 1)")
