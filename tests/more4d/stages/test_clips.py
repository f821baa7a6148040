"""Claims about more4d.stages.clips."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from more4d.data.tables import read_table, write_table
from more4d.data.video import read_video, write_video


def _rows(lineage: Any, videoid: str) -> list[dict[str, Any]]:
    table = read_table(lineage.root / "datasets" / "clips" / "clips.parquet").to_dict("records")
    return [row for row in table if row["videoid"] == videoid]


def test_a_rendered_clip_is_its_own_window_unchanged(lineage: Any) -> None:
    table = read_table(lineage.root / "datasets" / "clips" / "clips.parquet").to_dict("records")
    rendered = [row for row in table if row["origin"] == "rendered"]
    assert len(rendered) == 3
    for row in rendered:
        assert (row["verdict"], row["clip_id"]) == ("accepted", f"{row['videoid']}-00000")
        clip, _ = read_video(lineage.root / "datasets" / "clips" / row["path"])
        source, _ = read_video(lineage.root / "datasets" / "source" / "clips" / f"{row['videoid']}.mp4")
        np.testing.assert_array_equal(clip, source)


def test_a_pan_is_rejected_for_the_camera(lineage: Any) -> None:
    assert all("the camera moves" in row["reason"] for row in _rows(lineage, "pan"))


def test_a_still_clip_is_rejected_as_static(lineage: Any) -> None:
    assert all("static" in row["reason"] for row in _rows(lineage, "still"))


def test_a_cut_splits_and_the_short_part_is_named(lineage: Any) -> None:
    first, second, *_ = _rows(lineage, "cut")
    assert first["reason"] == "cut inside: a shot boundary after 3 of 5 frames"
    assert (second["start_frame"], second["verdict"]) == (3, "accepted")


def test_a_longer_video_gives_windows_and_a_rest(lineage: Any) -> None:
    rows = _rows(lineage, "walk")
    assert [(row["start_frame"], row["verdict"]) for row in rows] == [
        (0, "accepted"),
        (5, "accepted"),
        (10, "rejected"),
    ]
    assert rows[2]["reason"] == "too short: the video ends after 2 of 5 frames"


def test_scores_are_on_record_for_kept_and_rejected_windows_alike(lineage: Any) -> None:
    for videoid in ("pan", "walk"):
        row = _rows(lineage, videoid)[0]
        assert all(np.isfinite(row[f"{name}_score"]) for name in ("shot", "motion", "camera_motion", "brightness"))


def test_a_video_that_breaks_off_keeps_its_good_windows(branch: Any) -> None:
    path = branch.root / "datasets" / "source" / "clips" / "walk.mp4"
    path.write_bytes(b"no video")
    branch.run("clips")
    (row,) = _rows(branch, "walk")
    assert (row["verdict"], row["frames"]) == ("rejected", 0)
    assert "walk.mp4 cannot be opened" in row["reason"]


def test_a_slow_video_is_rejected(branch: Any) -> None:
    branch.run("clips", min_source_fps=7.5)
    assert _rows(branch, "walk")[0]["verdict"] == "accepted"
    branch.run("clips", min_source_fps=8, max_windows_per_clip=1)
    assert len(_rows(branch, "walk")) == 1


def test_a_copy_under_another_name_is_a_near_duplicate_of_the_first_by_id(branch: Any) -> None:
    source = branch.root / "datasets" / "source"
    video, fps = read_video(source / "clips" / "walk.mp4")
    table = read_table(source / "table.parquet")
    copy = table[table["videoid"] == "walk"].assign(videoid="zebra", contentUrl="clips/zebra.mp4")
    write_table(source / "table.parquet", pd.concat([copy, table], ignore_index=True))
    write_video(source / "clips" / "zebra.mp4", video, fps, crf=28)
    metrics = branch.run("clips").metrics
    assert [row["verdict"] for row in _rows(branch, "walk")[:2]] == ["accepted", "accepted"]
    assert [row["reason"].split(":")[0] for row in _rows(branch, "zebra")[:1]] == ["near-duplicate of walk-00000"]
    assert metrics["rejected_duplicate"] >= 1
    assert not list((branch.root / "datasets" / "clips" / "clips").glob("zebra-00000*"))


def test_transnet_without_its_weights_stops_before_any_video(branch: Any) -> None:
    with pytest.raises(ValueError, match=r"clips\.shots=transnetv2 needs its weights"):
        branch.run("clips", shots="transnetv2")


def test_no_window_of_the_bikes_clip_holds_one_of_its_five_cuts(branch: Any) -> None:
    source = branch.root / "datasets" / "source"
    table = read_table(source / "table.parquet")
    walk = table[table["videoid"] == "walk"]
    shutil.copy(Path(".cache/packaged/clips/bikes.mp4"), source / "clips" / "bikes.mp4")
    bikes = walk.assign(videoid="bikes", contentUrl="clips/bikes.mp4")
    write_table(source / "table.parquet", pd.concat([walk, bikes], ignore_index=True))
    branch.run("clips", max_windows_per_clip=30, max_rejected_share=1)
    assert len(_rows(branch, "bikes")) >= 16
    for row in _rows(branch, "bikes"):
        first, last = row["start_seconds"], row["start_seconds"] + (row["frames"] - 1) / row["fps"]
        # Picked frames may be half a step of the source from their time.
        assert not [cut for cut in np.array([30, 76, 137, 187, 242]) / 25 if first + 0.03 < cut < last - 0.03]
