"""The part of a sample that the networks can take: its middle, in whole tokens and whole groups of frames.

Shape letters: T frames, H height, W width.
"""

import dataclasses
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from more4d.data.deferred import deferred, is_deferred
from more4d.data.sample import Sample, SampleView

Shape = tuple[int, int, int]
"""(T, H, W)."""
TOKEN = 16
"""Side of a token, in pixels: eight to a latent cell, two cells to a token."""
Part = tuple[slice, slice, slice]


def fitted_shape(shape: Shape, largest: Shape | None = None) -> Shape:
    """The largest shape within `shape`, and within `largest`, of 4n + 1 frames with sides that are multiples of 16.

    Raises ValueError for a sample smaller than a token.
    """
    frames, height, width = shape if largest is None else map(min, shape, largest)
    fitted = (frames - 1) // 4 * 4 + 1, height // TOKEN * TOKEN, width // TOKEN * TOKEN
    if min(fitted) < 1:
        raise ValueError(
            f"a sample of {shape} (frames, height, width) has no room for a token of {TOKEN}x{TOKEN} pixels"
        )
    return fitted


def fit_sample(sample: Sample, shape: Shape) -> Sample:
    """The first frames and the middle of a sample; its camera's principal point moves along. What is deferred stays so."""
    found = sample.visibility.shape
    if found == shape:
        return sample
    frames, height, width = shape
    top, left = (found[1] - height) // 2, (found[2] - width) // 2
    part = slice(frames), slice(top, top + height), slice(left, left + width)
    intrinsics = sample.intrinsics.copy()
    intrinsics[:2, 2] -= left, top
    return dataclasses.replace(
        sample,
        **_pictures(sample, part),
        intrinsics=intrinsics,
        depth=sample.depth[part[1:]].copy(),
        points=sample.points[part].copy(),
        visibility=sample.visibility[part].copy(),
        views={name: _fit_view(view, part) for name, view in sample.views.items()},
    )


def _fit_view(view: SampleView, part: Part) -> SampleView:
    return dataclasses.replace(view, **_pictures(view, part), camera_to_world=view.camera_to_world[part[0]].copy())


def _pictures(source: Sample | SampleView, part: Part) -> dict[str, Any]:
    """The fields that may be deferred, cut, or to be cut when they are first asked for."""
    names = ("video", "render", "render_mask")
    return {
        name: deferred(partial(_cut, source, name, part)) if is_deferred(source, name) else _cut(source, name, part)
        for name in names
    }


def _cut(source: Sample | SampleView, name: str, part: Part) -> NDArray[Any] | None:
    whole = getattr(source, name)
    return None if whole is None else np.ascontiguousarray(whole[part])
