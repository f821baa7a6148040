"""The batches of the latent cache without the cache: encoded as they are asked for, number for number the same.

Far slower: for samples that are seen once, and to see that the cache changes nothing.
"""

from collections.abc import Sequence

from torch import Tensor

from more4d.data.sample import Sample, SampleView
from more4d.data.shards import TrajSceneDataset
from more4d.training.cache.dataset import LOG_VARIANCES
from more4d.training.cache.encoders import Encoder, strag_encoders, views_of, vism_encoders
from more4d.training.cache.fitting import Shape
from more4d.training.cache.networks import Networks
from more4d.training.cache.rows import Row, StoredDtype, collate, rounded
from more4d.training.cache.samples import SampleList, bucket_numbers


class _Direct:
    def __init__(self, networks: Networks, dtype: StoredDtype, *, posterior: bool) -> None:
        self._networks, self._posterior = networks, posterior
        self._dtype: StoredDtype = dtype

    def encode(self, encoders: Sequence[Encoder], given: Sample | SampleView) -> Row:
        """A row as the cache stores it."""
        row: Row = {}
        for encoder in encoders:
            row |= rounded(encoder.encode(self._networks, given), self._dtype)
        return {name: value for name, value in row.items() if self._posterior or name not in LOG_VARIANCES}

    def collate(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """The rows as one batch."""
        return collate(rows, self._networks.config.text.max_tokens)


class DirectLatents:
    """As LatentDataset, from samples themselves; `dtype` rounds and `largest` crops as for the cache."""

    def __init__(
        self,
        networks: Networks,
        samples: TrajSceneDataset | Sequence[Sample],
        *,
        dtype: StoredDtype = "float16",
        largest: Shape | None = None,
        decoded: bool = False,
        posterior: bool = False,
    ) -> None:
        self._samples, self._direct = SampleList(samples, largest), _Direct(networks, dtype, posterior=posterior)
        self._encoders = strag_encoders(networks.config, decoded=decoded)
        self.ids: Sequence[str] = self._samples.ids
        self.buckets: Sequence[int] = bucket_numbers(self._samples.shapes)
        self.size = len(self._samples)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The samples at `indices` [B], as LatentDataset gives them."""
        rows = [self._direct.encode(self._encoders, self._samples[i]) for i in indices.tolist()]
        return self._direct.collate(rows)


class DirectViews:
    """As ViewDataset, from samples themselves; `dtype` rounds and `largest` crops as for the cache."""

    def __init__(
        self,
        networks: Networks,
        samples: TrajSceneDataset | Sequence[Sample],
        *,
        dtype: StoredDtype = "float16",
        largest: Shape | None = None,
        decoded: bool = False,
        posterior: bool = False,
    ) -> None:
        self._samples, self._direct = SampleList(samples, largest), _Direct(networks, dtype, posterior=posterior)
        encoders = vism_encoders(decoded=decoded)
        self._of_views = [encoder for encoder in encoders if encoder.of_views]
        self._of_samples = [encoder for encoder in encoders if not encoder.of_views]
        self._views, shapes = self._samples.views, self._samples.shapes
        self.ids: Sequence[str] = [f"{self._samples.ids[i]}/{name}" for i, name in self._views]
        self.buckets: Sequence[int] = bucket_numbers([shapes[i] for i, _ in self._views])
        self.size = len(self._views)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The views at `indices` [B], as ViewDataset gives them."""
        return self._direct.collate([self._row(*self._views[i]) for i in indices.tolist()])

    def _row(self, i: int, view: str) -> Row:
        sample = self._samples[i]
        own = self._direct.encode(self._of_views, views_of(sample)[view])
        return own | self._direct.encode(self._of_samples, sample)
