from pathlib import Path

import pytest
import torch
from more4d.data.sample import Sample
from more4d.data.shards import TrajSceneDataset
from more4d.training.latents import motion_batch
from more4d.training.trajscene import TrajSceneMotion


def test_samples_in_shards_become_batches(trajscene: Path, samples: list[Sample]) -> None:
    source = TrajSceneMotion(TrajSceneDataset(trajscene, "train", with_views=False))
    assert (source.size, source.ids, source.buckets) == (2, ["scene-00000", "scene-00001"], [0, 0])
    found, exact = source.batch(torch.tensor([1])), motion_batch(samples[1:2])
    assert found.keys() == exact.keys()
    assert torch.equal(found["video"], exact["video"])
    assert torch.equal(found["visible"], exact["visible"])
    assert torch.allclose(found["motion"], exact["motion"], atol=2e-3)


def test_a_batch_reads_its_own_samples_alone(trajscene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, asked = TrajSceneDataset.read_files, []

    def noted(self: TrajSceneDataset, i: int) -> dict[str, bytes]:
        asked.append(i)
        return read(self, i)

    monkeypatch.setattr(TrajSceneDataset, "read_files", noted)
    source = TrajSceneMotion(TrajSceneDataset(trajscene, "train", with_views=False))
    assert asked == []
    source.batch(torch.tensor([1]))
    assert asked == [1]


def test_what_is_held_out_is_bounded_and_of_the_most_frequent_size(samples: list[Sample], narrow: list[Sample]) -> None:
    source = TrajSceneMotion([narrow[0], *samples])
    assert source.buckets == [0, 1, 1, 1]
    held_out, exact = source.held_out(2), motion_batch(samples[:2])
    assert held_out.keys() == {"motion", "visible", "unit"}
    assert all(torch.equal(value, exact[key]) for key, value in held_out.items())
    with pytest.raises(ValueError, match="cannot be one batch; take batches from one bucket"):
        source.batch(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="val: there are no samples to measure on"):
        TrajSceneMotion([]).held_out(1)
