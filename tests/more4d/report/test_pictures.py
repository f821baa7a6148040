import base64
import io
from collections.abc import Callable

import av
import numpy as np
from more4d.inference.scene import Scene
from more4d.report.pictures import depth_panel, image_url, resize, stripe_holes, time_colour, tracks_panel, video_base64
from PIL import Image

MakeScene = Callable[..., Scene]


def test_videos_are_of_the_kind_that_every_browser_plays(make_scene: MakeScene) -> None:
    text = video_base64(resize(make_scene().views["static"].video, 101), 8.0)
    with av.open(io.BytesIO(base64.b64decode(text))) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.frames) == ("h264", "yuv420p", 7)
        assert (stream.width, stream.height) == (100, 68)


def test_an_image_url_holds_the_picture_at_the_width_asked_for(make_scene: MakeScene) -> None:
    kind, data = image_url(make_scene().image, width=144).split(",")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == "data:image/webp;base64" and picture.size == (144, 96)


def test_holes_are_striped_and_the_rest_is_left_alone(make_scene: MakeScene) -> None:
    view = make_scene().views["static"]
    striped = stripe_holes(view.render, view.covered, 144)
    assert len(np.unique(striped[:, :, :17].reshape(-1, 3), axis=0)) == 2
    np.testing.assert_array_equal(striped[:, :, 18:], resize(view.render, 144)[:, :, 18:])


def test_tracks_are_drawn_where_points_go_and_nowhere_else(make_scene: MakeScene) -> None:
    scene = make_scene()
    still = np.repeat(scene.points[:1], 7, axis=0)
    plain = tracks_panel(scene.image, still, scene.visibility, scene.intrinsics)
    drawn = tracks_panel(scene.image, scene.points, scene.visibility, scene.intrinsics)
    changed = (plain != drawn).any(-1)
    assert changed.mean() > 0.01
    rows, columns = np.nonzero(changed)
    ball_rows, ball_columns = np.nonzero(scene.image[..., 0] == 210)
    assert rows.min() >= 4 * ball_rows.min() - 2 and rows.max() <= 4 * ball_rows.max() + 6
    assert columns.min() >= 4 * ball_columns.min() - 2


def test_unseen_and_unknown_points_are_not_drawn(make_scene: MakeScene) -> None:
    scene = make_scene()
    plain = tracks_panel(scene.image, np.full_like(scene.points, np.nan), scene.visibility, scene.intrinsics)
    hidden = tracks_panel(scene.image, scene.points, np.zeros_like(scene.visibility), scene.intrinsics)
    np.testing.assert_array_equal(plain, hidden)


def test_near_is_bright_and_no_depth_is_black() -> None:
    depth = np.repeat(np.linspace(1, 9, 64)[None], 32, 0)
    depth[:8] = np.nan
    panel = depth_panel(depth, width=64).sum(-1)
    assert (panel[:6] == 0).all()
    assert panel[20, 2] > panel[20, 32] > panel[20, 61]
    assert depth_panel(np.zeros((32, 64)), width=64).sum() == 0


def test_time_runs_from_blue_to_yellow() -> None:
    assert [time_colour(t) for t in (-1, 0, 0.5, 1)] == [(92, 107, 250), (92, 107, 250), (237, 84, 153), (255, 209, 77)]
