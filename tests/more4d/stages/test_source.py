"""Claims about more4d.stages.source."""

from typing import Any

import numpy as np
import pytest
from more4d.data.tables import TooManyRejectsError, read_table
from more4d.data.tensors import read_arrays
from more4d.data.video import read_video
from more4d.stages.base import fingerprint
from more4d.stages.source import SourceParams, rendered_seeds
from pydantic import ValidationError


def test_rendered_clips_and_their_truth_agree(lineage: Any) -> None:
    source = lineage.root / "datasets" / "source"
    rows = [row for row in read_table(source / "table.parquet").to_dict("records") if row["origin"] == "rendered"]
    assert [row["split"] for row in rows] == ["train", "train", "val"]
    for row in rows:
        arrays, facts = read_arrays(source / row["truth"])
        video, fps = read_video(source / row["contentUrl"])
        assert (video.shape, fps) == ((5, 32, 48, 3), 8)
        assert arrays["points"].shape == video.shape
        assert arrays["view_circle_left_video"].shape == video.shape
        np.testing.assert_allclose(arrays["points"][0, ..., 2], arrays["depths"][0], rtol=1e-5)
        assert (facts["caption"], facts["seed"]) == (row["name"], row["source_row"])


def test_what_cannot_be_had_is_a_row_with_a_reason(lineage: Any) -> None:
    table = read_table(lineage.root / "datasets" / "source" / "table.parquet").to_dict("records")
    reasons = {row["videoid"]: row["reason"] for row in table if row["verdict"] == "rejected"}
    assert set(reasons) == {"gone", "broken", "again", "sound", "far"}
    assert "gone.mp4 does not exist" in reasons["gone"]
    assert "broken.mp4 cannot be opened" in reasons["broken"]
    assert reasons["again"] == "the same bytes as walk"
    assert "no video stream, only audio" in reasons["sound"]
    assert reasons["far"] == "refused: https:// is not among the allowed schemes (file)"


def test_real_rows_carry_licence_and_attribution(lineage: Any) -> None:
    table = read_table(lineage.root / "datasets" / "source" / "table.parquet").to_dict("records")
    rows = {row["videoid"]: row for row in table}
    assert (rows["walk"]["licence"], rows["walk"]["attribution"]) == ("MIT", "someone")
    assert (rows["pan"]["licence"], rows["pan"]["source_table"], rows["pan"]["source_row"]) == ("CC0", "table.csv", 0)


def test_same_seed_gives_the_same_bytes(branch: Any) -> None:
    before = fingerprint(branch.root / "datasets" / "source")
    branch.run("source")
    assert fingerprint(branch.root / "datasets" / "source") == before


def test_too_many_rejects_fail_the_stage_and_leave_the_old_output(branch: Any) -> None:
    before = fingerprint(branch.root / "datasets" / "source")
    with pytest.raises(TooManyRejectsError, match=r"5 of 13 rows .* source\.max_rejected_share=0\.1"):
        branch.run("source", max_rejected_share=0.1)
    assert fingerprint(branch.root / "datasets" / "source") == before


def test_train_and_val_seeds_never_meet() -> None:
    train = {seed for run in range(50) for seed, split in rendered_seeds(run, 100, 100) if split == "train"}
    val = {seed for run in range(50) for seed, split in rendered_seeds(run, 100, 100) if split == "val"}
    assert len(train) == len(val) == 5000
    assert not train & val


def test_an_unknown_camera_is_refused_with_the_known() -> None:
    with pytest.raises(ValidationError, match="unknown camera 'sideways'; the cameras are static"):
        SourceParams(rendered_train=1, rendered_val=1, novel_views=("sideways",), max_rejected_share=0)
