"""Claims about more4d.stages.depth."""

from typing import Any

import numpy as np
import pytest
from more4d.data.tables import TooManyRejectsError, read_table
from more4d.data.tensors import read_arrays


def test_rendered_clips_get_the_truth_and_real_ones_the_networks_depth(lineage: Any) -> None:
    folder = lineage.root / "datasets" / "depth"
    rows = read_table(folder / "depth.parquet").to_dict("records")
    models = {row["clip_id"].split("-")[0]: row["model"] for row in rows}
    assert (models["rendered"], models["walk"]) == ("ground_truth", "more4d-depth")
    for row in rows:
        arrays, facts = read_arrays(folder / f"{row['clip_id']}.safetensors")
        assert arrays["depths"].shape == (5, 32, 48)
        assert (arrays["depths"] > 0).all() and np.isfinite(arrays["intrinsics"]).all()
        assert facts["version"] == row["version"]


def test_clips_that_were_not_selected_get_none(lineage: Any) -> None:
    assert not list((lineage.root / "datasets" / "depth").glob("sea*"))


def test_asking_for_truth_that_is_not_there_is_a_verdict_and_above_the_limit_an_error(branch: Any) -> None:
    branch.run("depth", real="ground_truth", max_rejected_share=0.9)
    rows = read_table(branch.root / "datasets" / "depth" / "depth.parquet").to_dict("records")
    reasons = {row["clip_id"]: row["reason"] for row in rows}
    assert "walk-00000 (real) has no ground truth" in reasons["walk-00000"]
    with pytest.raises(TooManyRejectsError, match="has no ground truth"):
        branch.run("depth", real="ground_truth")
