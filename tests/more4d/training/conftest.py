import dataclasses
from pathlib import Path

import numpy as np
import pytest
from more4d.data.sample import Sample, SampleView
from more4d.data.shards import write_shards


@pytest.fixture(scope="session")
def narrow(samples: list[Sample]) -> list[Sample]:
    """The clips without their rightmost 16 columns, under other names."""
    return [_narrowed(sample) for sample in samples]


@pytest.fixture(scope="session")
def mixed(samples: list[Sample], narrow: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of two sizes, one after the other, in several shards."""
    folder = tmp_path_factory.mktemp("mixed")
    clips = [samples[0], narrow[0], samples[1], narrow[1]]
    write_shards(clips, folder, split="train", shard_bytes=60_000)
    write_shards([dataclasses.replace(samples[2], split="val")], folder, split="val", shard_bytes=10**6)
    return folder


def _narrowed(sample: Sample) -> Sample:
    """The clip without its rightmost 16 columns, under another name."""

    def cut(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array[:, :, :32])

    views = {
        name: SampleView(
            None if v.video is None else cut(v.video), v.camera_to_world, cut(v.render), cut(v.render_mask)
        )
        for name, v in sample.views.items()
    }
    return dataclasses.replace(
        sample, id=f"narrow-{sample.id}", video=cut(sample.video), depth=sample.depth[:, :32].copy(),
        points=cut(sample.points), visibility=cut(sample.visibility), render=cut(sample.render),
        render_mask=cut(sample.render_mask), views=views,
    )  # fmt: skip
