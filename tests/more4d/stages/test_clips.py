"""Claims about more4d.stages.clips."""

from typing import Any

import numpy as np
from more4d.data.tables import read_table
from more4d.data.video import read_video


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
