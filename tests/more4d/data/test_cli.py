"""Claims about `more4d data`."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from more4d.cli import main
from more4d.data.reader import TrajSceneDataset
from more4d.data.sample import Sample, encode_sample
from more4d.data.video import encode_video, read_video
from more4d.data.writer import EncodedSample, write_encoded, write_shards

MakeSample = Callable[..., Sample]


@pytest.fixture
def shards(make_sample: MakeSample, tmp_path: Path) -> Path:
    """Three samples to train on in two shards, one to validate on."""
    samples = [make_sample(f"s-{number}", number) for number in range(3)]
    write_shards(samples, tmp_path / "shards", split="train", shard_bytes=300_000)
    write_shards([replace(make_sample("v-0"), split="val")], tmp_path / "shards", split="val", shard_bytes=1)
    return tmp_path / "shards"


def _run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as left:
        main(["data", *arguments])
    assert left.value.code == code
    told = capsys.readouterr()
    return told.err if code == 2 else told.out


def test_inspect_tells_the_splits_and_one_samples_history(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = _run(capsys, "inspect", str(shards))
    assert "schema version 2" in told and "train: 3 samples in 2 shards" in told
    header = json.loads(_run(capsys, "inspect", str(shards), "--sample", "s-1"))["header"]
    assert (header["caption"], header["provenance"]["seed"]) == ("a patch moves", 1)
    assert "has no sample 'x'" in _run(capsys, "inspect", str(shards), "--sample", "x", code=2)


def test_stats_count_by_shape(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(_run(capsys, "stats", str(shards), "--json"))
    assert [(row["split"], row["shape"], row["samples"]) for row in rows] == [
        ("train", "5x32x48", 3),
        ("val", "5x32x48", 1),
    ]
    assert "train 5x32x48: 3 samples" in _run(capsys, "stats", str(shards))


def test_verify_fails_on_damage_and_names_the_sample(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "every shard is as its manifest says" in _run(capsys, "verify", str(shards))
    tar = shards / "val-000000.tar"
    tar.write_bytes(b"x" + tar.read_bytes()[1:])
    assert "damaged samples: v-0" in _run(capsys, "verify", str(shards), code=1)


def test_convert_rewrites_shards_elsewhere(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(capsys, "convert", str(shards), "--out", str(tmp_path / "new"))
    old, new = TrajSceneDataset(shards), TrajSceneDataset(tmp_path / "new")
    assert new.ids == old.ids
    np.testing.assert_array_equal(new[0].video, old[0].video)
    assert "never rewritten in place" in _run(capsys, "convert", str(shards), "--out", str(shards), code=2)


def test_convert_keeps_the_clips_own_file(
    make_sample: MakeSample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = encode_video(make_sample().video, 8, crf=30)
    sample = replace(make_sample(), video=read_video(clip)[0])
    encoded = EncodedSample(sample.id, encode_sample(sample, clip))
    write_encoded([encoded], tmp_path / "old", split="train", shard_bytes=1)
    _run(capsys, "convert", str(tmp_path / "old"), "--out", str(tmp_path / "new"))
    assert TrajSceneDataset(tmp_path / "new").read_files(0)["video.mp4"] == clip
    np.testing.assert_array_equal(TrajSceneDataset(tmp_path / "new")[0].video, sample.video)


def test_convert_refuses_what_is_no_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "0-49.tar.gz").write_bytes(b"hello")
    told = _run(capsys, "convert", str(tmp_path / "0-49.tar.gz"), "--out", str(tmp_path / "new"), code=2)
    assert "0-49.tar.gz is cut short or damaged" in told
    assert "give archives" in _run(capsys, "convert", "a", "b", "--out", str(tmp_path / "new"), code=2)
