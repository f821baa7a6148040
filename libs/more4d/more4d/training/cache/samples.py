"""Samples in a row, from shards or from memory, with what is known of each before it is decoded.

Shape letters: T frames, H height, W width.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, overload

from more4d.data.header import Header, read_header
from more4d.data.sample import Sample
from more4d.data.shards import TrajSceneDataset
from more4d.training.cache.encoders import OWN_VIEW, views_of
from more4d.training.cache.fitting import Shape, fit_sample, fitted_shape


class SampleList(Sequence[Sample]):
    """The samples of a dataset of shards, each read when it is asked for, or those of a list, as the networks take them.

    Of each the middle, at most `largest`, in whole tokens: see `fitted_shape`.
    """

    def __init__(self, samples: TrajSceneDataset | Sequence[Sample], largest: Shape | None = None) -> None:
        self._samples, self._largest = samples, largest

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, i: int) -> Sample: ...
    @overload
    def __getitem__(self, i: slice) -> list[Sample]: ...
    def __getitem__(self, i: int | slice) -> Sample | list[Sample]:
        if isinstance(i, slice):
            return [self[number] for number in range(*i.indices(len(self)))]
        return fit_sample(self._samples[i], self.shapes[i])

    @cached_property
    def ids(self) -> list[str]:
        """Every sample's id."""
        samples = self._samples
        return samples.ids if isinstance(samples, TrajSceneDataset) else [sample.id for sample in samples]

    @cached_property
    def shapes(self) -> list[Shape]:
        """Every sample's shape, as it is given."""
        return [fitted_shape(shape, self._largest) for shape in self._stored_shapes()]

    def _stored_shapes(self) -> list[Shape]:
        if not isinstance(self._samples, TrajSceneDataset):
            return [_shape(sample.visibility.shape) for sample in self._samples]
        known = [_shape(row) for row in self._samples.shapes.tolist()]
        # Shards of schema version 1 have it in the samples' headers alone.
        return [shape if any(shape) else _shape(self._header(i).shape) for i, shape in enumerate(known)]

    @cached_property
    def shards(self) -> list[int]:
        """The number of every sample's shard; a list is one shard."""
        samples = self._samples
        return samples.index.shard.tolist() if isinstance(samples, TrajSceneDataset) else [0] * len(samples)

    @cached_property
    def hashes(self) -> list[str]:
        """SHA-256 of every sample's bytes. Raises TypeError for samples that are in no shard."""
        if not isinstance(self._samples, TrajSceneDataset):
            raise TypeError("samples that are in no shard have no hash")
        return [value.hex() for value in self._samples.index.sha256.to_pylist()]

    @cached_property
    def views(self) -> list[tuple[int, str]]:
        """(the sample's number, the camera's name) of every view to train on, in the order of `views_of`."""
        return [(i, name) for i in range(len(self)) for name in self._view_names(i)]

    def _view_names(self, i: int) -> list[str]:
        if not isinstance(self._samples, TrajSceneDataset):
            return list(views_of(self._samples[i]))
        return [OWN_VIEW, *(name for name, view in self._header(i).views.items() if view.truth)]

    def _header(self, i: int) -> Header:
        assert isinstance(self._samples, TrajSceneDataset)
        return read_header(self._samples.read_files(i)["json"])


def bucket_numbers(shapes: Sequence[Any]) -> list[int]:
    """A number a shape, in the shapes' own order, so that it does not depend on which sample comes first."""
    numbers = {shape: number for number, shape in enumerate(sorted(set(shapes)))}
    return [numbers[shape] for shape in shapes]


def _shape(sides: Sequence[int]) -> Shape:
    frames, height, width = (int(side) for side in sides)
    return frames, height, width
