"""Claims about more4d.data.import_trajscene."""

import io
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from more4d.data.import_trajscene import fit_intrinsics, import_archives
from more4d.data.reader import TrajSceneDataset
from more4d.data.safe_tar import ArchiveError
from more4d.data.sample import Sample
from more4d.data.tables import TooManyRejectsError
from more4d.data.verify import verify_shards
from numpy.typing import NDArray

from . import published

MakeSample = Callable[..., Sample]


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _tracks(sample: Sample, **changes: torch.Tensor) -> bytes:
    return pickle.dumps({**published.tracks(sample), **changes})


def test_published_archives_become_shards_that_hold_the_same(make_sample: MakeSample, tmp_path: Path) -> None:
    samples = [make_sample(f"{number:05d}", number) for number in range(3)]
    files = [published.members(sample, sample.id) for sample in samples]
    # Files of all samples in turn: nothing says that a sample's files stand together.
    mixed = dict(sorted((path.split("_", 1)[-1] + path, (path, data)) for f in files for path, data in f.items()))
    archive = published.write_archive(tmp_path / "0-49.tar.gz", dict(mixed.values()))
    imported = import_archives([str(archive)], tmp_path / "out", published.LAYOUT)
    dataset = TrajSceneDataset(tmp_path / "out", "train")
    assert sorted(dataset.ids) == ["00000", "00001", "00002"] and verify_shards(str(tmp_path / "out")) == []
    assert imported.verdicts["verdict"].tolist() == ["accepted"] * 3
    for i, name in enumerate(dataset.ids):
        back, original = dataset[i], samples[int(name)]
        np.testing.assert_array_equal(back.video, original.video)
        np.testing.assert_array_equal(back.visibility, original.visibility)
        np.testing.assert_array_equal(back.render_mask, original.render_mask)
        np.testing.assert_allclose(back.points, original.points, rtol=1e-3, atol=5e-3)
        np.testing.assert_allclose(back.intrinsics, original.intrinsics, rtol=1e-4)
        assert back.caption == "a patch moves" and back.provenance["mask"] == "marks the holes"


REJECTED: dict[str, tuple[Callable[[Sample], dict[str, bytes | None]], str]] = {
    "no caption": (lambda _: {"caption": None}, "lacks its caption"),
    "no tracks": (lambda _: {"tracks": None}, "lacks its tracks"),
    "no mask": (lambda _: {"mask": None}, "lacks its mask"),
    "no video": (lambda _: {"video": None}, "lacks its video"),
    "fewer points": (lambda s: {"tracks": _tracks(s, coords=torch.ones(5, 9, 3))}, r"coords is \[5, 9, 3\]"),
    "fewer frames": (lambda s: {"tracks": _tracks(s, vis=torch.ones(4, 1536))}, r"vis is \[4, 1536\]"),
    "no colours": (lambda s: {"tracks": pickle.dumps({"coords": torch.ones(2)})}, "lack colors|lack vis|coords is"),
    "points behind the camera": (lambda s: {"tracks": _tracks(s, coords=-torch.ones(5, 1536, 3))}, "in front of"),
    "points in disorder": (
        lambda s: {"tracks": _tracks(s, coords=torch.rand(5, 1536, 3, generator=torch.Generator().manual_seed(0)) + 1)},
        "px from their pixels|no camera sees",
    ),
    "mask of another size": (lambda _: {"mask": _npy(np.ones((5, 9, 9)))}, r"the mask is float64 \[5, 9, 9\]"),
    "mask of objects": (lambda _: {"mask": _npy(np.array([None]))}, "allow_pickle=False"),
    "video that is none": (lambda _: {"video": b"hello"}, "video|Invalid data"),
    "caption in no encoding": (lambda _: {"caption": b"\xff\xfe\x00"}, "codec can't decode"),
    "code in the tracks": (
        lambda _: {"tracks": b"cos\nsystem\n(S'touch more4d-was-here'\ntR."},
        r"asks for os\.system",
    ),
}


@pytest.mark.parametrize("name", REJECTED)
def test_a_sample_that_is_wrong_is_a_verdict_and_the_others_are_kept(
    name: str, make_sample: MakeSample, tmp_path: Path
) -> None:
    change, reason = REJECTED[name]
    sample = make_sample()
    files = published.members(sample, "bad", **change(sample)) | published.members(sample, "good")
    archive = published.write_archive(tmp_path / "0-49.tar.gz", files)
    verdicts = import_archives([str(archive)], tmp_path / "out", published.LAYOUT).verdicts.set_index("id")
    assert TrajSceneDataset(tmp_path / "out").ids == ["good"]
    assert verdicts.loc["bad", "verdict"] == "rejected"
    assert re.search(reason, str(verdicts.loc["bad", "reason"])), verdicts.loc["bad", "reason"]


def test_an_unsafe_archive_stops_the_import_with_nothing_half_visible(make_sample: MakeSample, tmp_path: Path) -> None:
    sound = published.members(make_sample(), "good")
    first = published.write_archive(tmp_path / "0-49.tar.gz", sound)
    hostile = published.write_archive(
        tmp_path / "50-99.tar.gz", published.members(make_sample(), "other"), (published.member("../x.txt"), b"")
    )
    with pytest.raises(ArchiveError, match=r"50-99\.tar\.gz: member '\.\./x\.txt'"):
        import_archives([str(first), str(hostile)], tmp_path / "out", published.LAYOUT)
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["train-0-49.index.json", "train-0-49.tar", "train-0-49.verdicts.parquet"]


def test_an_archive_already_imported_is_not_read_again(
    make_sample: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = published.write_archive(tmp_path / "0-49.tar.gz", published.members(make_sample(), "good"))
    before = import_archives([str(archive)], tmp_path / "out", published.LAYOUT)
    archive.unlink()
    after = import_archives([str(archive)], tmp_path / "out", published.LAYOUT)
    assert after.manifest == before.manifest and after.verdicts.equals(before.verdicts)


def test_too_many_rejects_publish_nothing(make_sample: MakeSample, tmp_path: Path) -> None:
    files = published.members(make_sample(), "bad", caption=None) | published.members(make_sample(), "good")
    archive = published.write_archive(tmp_path / "0-49.tar.gz", files)
    strict = published.LAYOUT.model_copy(update={"max_rejected_share": 0.4})
    with pytest.raises(TooManyRejectsError, match="1 of 2 rows were rejected"):
        import_archives([str(archive)], tmp_path / "out", strict)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_intrinsics_are_found_from_points_alone(make_sample: MakeSample) -> None:
    sample = make_sample()
    points = replace(sample).points[0].copy()
    points[:9] = np.nan
    matrix, error = fit_intrinsics(points)
    np.testing.assert_allclose(matrix, sample.intrinsics, rtol=1e-4)
    assert error < 0.01
