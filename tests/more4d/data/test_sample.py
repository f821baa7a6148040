"""Claims about more4d.data.sample and more4d.data.tracks_codec."""

import base64
import json
import pickle
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from more4d.data.deferred import is_deferred
from more4d.data.sample import Sample, decode_sample, encode_sample
from more4d.data.tracks_codec import decode_tracks, encode_tracks
from more4d.data.video import encode_video, read_video
from numpy.typing import NDArray

MakeSample = Callable[..., Sample]
Lift = Callable[[NDArray[np.float32]], NDArray[np.float32]]
SHAPE = (5, 32, 48)


def _pixels(points: NDArray[np.float32], camera: NDArray[np.float32]) -> NDArray[np.float64]:
    return points[..., :2].astype(np.float64) / points[..., 2:] * camera[0, 0] + camera[:2, 2]


def test_everything_but_the_tracks_comes_back_exact(make_sample: MakeSample) -> None:
    sample = make_sample()
    back = decode_sample(encode_sample(sample))
    expected = ("a-00000", "a patch moves", 8, "train", "rendered")
    assert (back.id, back.caption, back.fps, back.split, back.kind) == expected
    assert back.provenance == sample.provenance
    for name in ("video", "intrinsics", "visibility", "render", "render_mask"):
        np.testing.assert_array_equal(getattr(back, name), getattr(sample, name), err_msg=name)
    truth, none = back.views["static"].video, back.views["spiral"].video
    assert truth is not None and none is None
    for name in ("camera_to_world", "render", "render_mask"):
        np.testing.assert_array_equal(getattr(back.views["static"], name), getattr(sample.views["static"], name))


def test_videos_and_render_masks_wait_until_they_are_asked_for_also_across_a_pickle(make_sample: MakeSample) -> None:
    sample = make_sample()
    back = decode_sample(encode_sample(sample))
    assert is_deferred(back, "video") and is_deferred(back.views["static"], "render_mask")
    there = pickle.loads(pickle.dumps(back))  # noqa: S301 - our own, as a worker sends it
    assert is_deferred(there, "video")
    np.testing.assert_array_equal(there.video, sample.video)
    assert there.video is there.video and not is_deferred(there, "video") and is_deferred(back, "video")
    np.testing.assert_array_equal(replace(back, caption="b").render, sample.render)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("video.mp4", b"no video", "its video.mp4 is damaged: 8 bytes cannot be opened"),
        ("render.mp4", encode_video(np.zeros((4, 32, 48, 3), np.uint8), 8), r"is \[4, 32, 48, 3\], its header wants"),
        ("render_mask.bin", b"xx", "its render_mask.bin is damaged"),
        ("render_mask.bin", zlib.compress(b"x"), "is cut short: 1 bytes where its header wants 960"),
        ("view_static.render.mp4", b"", "its view_static.render.mp4 is damaged"),
    ],
)
def test_a_damaged_video_or_mask_names_its_sample_and_spoils_nothing_else(
    make_sample: MakeSample, name: str, data: bytes, reason: str
) -> None:
    back = decode_sample(encode_sample(make_sample()) | {name: data})
    assert back.points.shape == (5, 32, 48, 3)
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"sample a-00000: .*{reason}"):
            _ = back.video, back.render, back.render_mask, back.views["static"].render


@pytest.mark.parametrize("name", ["visibility.bin", "tracks_exact_mask.bin", "tracks_exact_points.bin"])
def test_what_unpacks_to_more_than_its_header_says_is_refused_and_not_unpacked(
    make_sample: MakeSample, name: str
) -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    tracemalloc.start()
    with pytest.raises(ValueError, match="more than the"):
        decode_sample(encode_sample(make_sample()) | {name: bomb})
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("frames", "found"), [((2000, 32, 48), r"\[6, 32, 48, 3\]"), ((20, 600, 800), r"\[1, 600, 800, 3\]")]
)
def test_a_video_longer_or_larger_than_its_header_says_is_refused_and_not_decoded(
    make_sample: MakeSample, frames: tuple[int, ...], found: str
) -> None:
    bomb = encode_video(np.zeros((*frames, 3), np.uint8), 8)
    back = decode_sample(encode_sample(make_sample()) | {"video.mp4": bomb})
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"its video\.mp4 is {found} or longer, its header wants \[5, 32, 48, 3\]"):
        _ = back.video
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_same_sample_gives_the_same_bytes(make_sample: MakeSample) -> None:
    assert encode_sample(make_sample()) == encode_sample(make_sample())


def test_the_clips_own_file_is_kept_where_it_gives_these_very_frames_and_only_there(make_sample: MakeSample) -> None:
    clip = encode_video(make_sample().video, 8, crf=30)
    sample = replace(make_sample(), video=read_video(clip)[0])
    files = encode_sample(sample, clip)
    assert files["video.mp4"] == clip
    np.testing.assert_array_equal(decode_sample(files).video, sample.video)
    other = encode_sample(make_sample(), clip)
    assert other == encode_sample(make_sample())


def test_views_are_left_out_when_not_wanted(make_sample: MakeSample) -> None:
    files = {key: data for key, data in encode_sample(make_sample()).items() if not key.startswith("view_")}
    assert decode_sample(files, with_views=False).views == {}
    with pytest.raises(ValueError, match=r"lacks its view_s\w+\.camera\.bin"):
        decode_sample(files)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 50), st.floats(0, 1))
def test_quantised_tracks_stay_within_a_twentieth_of_a_pixel_and_a_thousandth_of_depth(
    intrinsics: NDArray[np.float32], lift: Lift, seed: int, scale: float, motion: float
) -> None:
    rng = np.random.default_rng(seed)
    depth = (scale * rng.lognormal(0, 1, SHAPE[1:])).astype(np.float32)
    steps = rng.normal(0, motion, (*SHAPE, 3)) * depth[..., None]
    points = (lift(depth)[None] + steps.cumsum(0) - steps[0]).astype(np.float32)
    tracks = encode_tracks(points, depth, intrinsics)
    depth_back, back = decode_tracks(tracks.header, tracks.files, SHAPE)
    np.testing.assert_allclose(depth_back, depth, rtol=2e-4)
    ahead = points[..., 2] > 1e-3
    assert np.linalg.norm((_pixels(back, intrinsics) - _pixels(points, intrinsics))[ahead], axis=-1).max() <= 0.05
    np.testing.assert_allclose(back[..., 2], points[..., 2], rtol=1e-3)


def test_points_that_pixels_cannot_hold_are_kept_exactly(make_sample: MakeSample) -> None:
    sample = make_sample()
    points, depth = sample.points.copy(), sample.depth.copy()
    points[1, 0, 0] = np.nan
    points[2, 3, 4, 2] = -1
    points[3, 5, 6] = (1e6, 0, 1e-3)
    depth[7, 8] = 0
    back = decode_sample(encode_sample(replace(sample, points=points, depth=depth)))
    for index in ((1, 0, 0), (2, 3, 4), (3, 5, 6)):
        np.testing.assert_array_equal(back.points[index], points[index])
    np.testing.assert_array_equal(back.points[:, 7, 8], points[:, 7, 8])
    assert back.depth[7, 8] == 0


def test_static_tracks_cost_almost_nothing(make_sample: MakeSample) -> None:
    sample = make_sample()
    tracks = encode_tracks(np.repeat(sample.points[:1], 50, 0), sample.depth, sample.intrinsics)
    assert len(tracks.files["steps"]) < 0.005 * 50 * sample.points[0].nbytes


def test_a_sample_of_the_wrong_shape_or_name_is_refused(make_sample: MakeSample) -> None:
    with pytest.raises(ValueError, match=r"depth is \[31, 48\], its video wants \[32, 48\]"):
        replace(make_sample(), depth=np.ones((31, 48), np.float32))
    with pytest.raises(ValueError, match="cannot be a sample's id"):
        make_sample("../evil")


def test_another_schema_version_is_refused(make_sample: MakeSample) -> None:
    files = encode_sample(make_sample())
    files["json"] = files["json"].replace(b'"schema_version": 2', b'"schema_version": 99')
    with pytest.raises(ValueError, match="schema version 99, this code reads 1 and 2"):
        decode_sample(files)


def test_tracks_of_schema_version_1_are_still_read(make_sample: MakeSample) -> None:
    stored = json.loads((Path(__file__).parent / "tracks_v1.json").read_text())
    files = {name: base64.b64decode(data) for name, data in stored["files"].items()}
    sample = make_sample()
    depth, points = decode_tracks(stored["header"], files, SHAPE)
    np.testing.assert_allclose(depth, sample.depth, rtol=2e-4)
    assert np.isnan(points[1, 0, 0]).all()
    np.testing.assert_allclose(points[2:], sample.points[2:], rtol=1e-3, atol=5e-3)


def test_tracks_cut_short_damaged_or_of_an_unknown_codec_are_refused(make_sample: MakeSample) -> None:
    sample = make_sample()
    tracks = encode_tracks(sample.points, sample.depth, sample.intrinsics)
    steps = tracks.files["steps"]
    for wrong in (steps[: len(steps) // 2], b"", b"\xff" * 50, tracks.files["depth"]):
        with pytest.raises(ValueError, match="the sample's tracks"):
            decode_tracks(tracks.header, tracks.files | {"steps": wrong}, SHAPE)
    with pytest.raises(ValueError, match="compressed by 'zip', this code reads zstd-planes"):
        decode_tracks(tracks.header | {"codec": "zip"}, tracks.files, SHAPE)
    with pytest.raises(ValueError, match="steps: ZSTD .* numbers are wanted"):
        decode_tracks(tracks.header, tracks.files, (4, *SHAPE[1:]))
