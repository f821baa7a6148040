from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from more4d.pipelines.inputs import cameras, depths, masks, pictures, prompts, require_size, videos
from PIL import Image

PIXELS = np.arange(16 * 32 * 3).reshape(16, 32, 3).astype(np.uint8)


def test_pictures_become_one_batch_with_colours_first() -> None:
    expected = torch.from_numpy(PIXELS).permute(2, 0, 1)[None]
    for given_as in (PIXELS, PIXELS[None], Image.fromarray(PIXELS), expected, expected[0]):
        assert torch.equal(pictures(given_as), expected)
    assert pictures([Image.fromarray(PIXELS)] * 3).shape == (3, 3, 16, 32)
    assert torch.allclose(pictures(expected / 255), expected.float())


def test_a_picture_given_by_an_array_is_not_shared_with_it() -> None:
    pixels = PIXELS.copy()
    found = pictures(pixels)
    pixels[:] = 0
    assert found.any()


def test_videos_become_one_batch_with_colours_first() -> None:
    clip = np.stack([PIXELS] * 5)
    expected = torch.from_numpy(clip).permute(3, 0, 1, 2)[None]
    for given_as in (clip, clip[None], [Image.fromarray(frame) for frame in clip], expected, expected[0]):
        assert torch.equal(videos(given_as), expected)
    assert masks(np.ones((5, 16, 32)), expected).dtype == torch.bool


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ("photo.png", "not a str"),
        (None, "not a NoneType"),
        ([], "not an empty list"),
        (["a.png", "b.png"], "not a list of str"),
        ([PIXELS, Image.fromarray(PIXELS)], "not a list of Image, ndarray"),
    ],
)
@pytest.mark.parametrize("read", [pictures, videos])
def test_what_is_no_picture_is_refused_saying_what_to_give(
    read: Callable[[Any], torch.Tensor], wrong: Any, found: str
) -> None:
    with pytest.raises(ValueError, match=f"must be PIL images, a uint8 array or a tensor, {found}$"):
        read(wrong)


@pytest.mark.parametrize("read", [pictures, videos])
def test_pictures_of_several_sizes_are_refused_with_their_sizes(read: Callable[[Any], torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="must be of one size, not 8x32, 16x32"):
        read([Image.fromarray(PIXELS), Image.fromarray(PIXELS[:8])])


def test_an_array_or_tensor_that_does_not_fit_is_named_by_its_own_type_and_shape() -> None:
    wrong: list[tuple[Callable[[Any], torch.Tensor], Any, str]] = [
        (pictures, PIXELS[..., 0], r"image must be uint8 .*, not uint8 \(16, 32\)"),
        (pictures, PIXELS / 255, r"not float64 \(16, 32, 3\)"),
        (pictures, np.array(["a", "b"]), r"not <U1 \(2,\)"),
        (pictures, PIXELS[None][:0], r"not uint8 \(0, 16, 32, 3\)"),
        (pictures, torch.zeros(16, 32), r"must be \[3, H, W\] .*, not float32 \(16, 32\)"),
        (pictures, torch.zeros(3, 16, 32, dtype=torch.int64), r"uint8 or floating, not int64 \(3, 16, 32\)"),
        (pictures, torch.full((3, 16, 32), torch.nan), r"must be in 0\.\.1, not nan"),
        (videos, PIXELS, r"video must be uint8 \[T, H, W, 3\] .*, not uint8 \(16, 32, 3\)"),
        (videos, torch.zeros(0, 3, 5, 16, 32), r"not float32 \(0, 3, 5, 16, 32\)"),
    ]
    for read, given_as, message in wrong:
        with pytest.raises(ValueError, match=message):
            read(given_as)


def test_depths_and_cameras_get_a_batch() -> None:
    image = torch.zeros(2, 3, 4, 6)
    assert depths(np.ones((2, 4, 6)), image).dtype == torch.float32
    assert cameras(np.eye(3), image).shape == (2, 3, 3)
    assert prompts("a cat", 2) == ["a cat"] * 2
    with pytest.raises(ValueError, match=r"depth is \(1, 4, 6\); images \(2, 3, 4, 6\) need \(2, 4, 6\)"):
        depths(np.ones((4, 6)), image)


@given(st.integers(1, 80), st.integers(1, 700), st.integers(1, 700))
def test_a_size_is_taken_where_latents_and_tokens_divide_it_or_a_near_one_is_named(t: int, h: int, w: int) -> None:
    fits = t % 4 == 1 and h % 16 == 0 and w % 16 == 0
    if fits:
        require_size(t, h, w)
        return
    with pytest.raises(ValueError, match="such as") as error:
        require_size(t, h, w)
    named = [
        int(word.strip(".,")) for word in str(error.value).split("such as")[1].split() if word.strip(".,").isdigit()
    ]
    if len(named) == 1:
        assert named[0] % 4 == 1
    else:
        assert all(side % 16 == 0 and side >= 16 for side in named)
