"""Claims about more4d.stages.tracks."""

from typing import Any

import numpy as np
from more4d.data.tables import read_table
from more4d.data.tensors import read_arrays


def test_all_clips_have_one_schema_whoever_tracked_them(lineage: Any) -> None:
    folder = lineage.root / "datasets" / "tracks"
    rows = read_table(folder / "tracks.parquet").to_dict("records")
    trackers = {row["clip_id"].split("-")[0]: row["tracker"] for row in rows}
    assert (trackers["rendered"], trackers["walk"]) == ("ground_truth", "dis-flow")
    for row in rows:
        arrays, facts = read_arrays(folder / f"{row['clip_id']}.safetensors")
        assert arrays["points"].shape == (5, 32, 48, 3)
        assert arrays["visibility"][0].all()
        np.testing.assert_allclose(arrays["points"][0, ..., 2], arrays["depth0"], rtol=1e-5)
        assert {"tracker", "version", "licence", "depth_model", "depth_licence"} <= set(facts)


def test_the_truth_is_passed_on_exactly(lineage: Any) -> None:
    for path in (lineage.root / "datasets" / "source" / "truth").glob("*.safetensors"):
        truth, _ = read_arrays(path)
        tracks, _ = read_arrays(lineage.root / "datasets" / "tracks" / f"{path.stem}-00000.safetensors")
        np.testing.assert_array_equal(tracks["points"], truth["points"])


def test_a_tracker_that_loses_too_much_is_a_verdict(branch: Any) -> None:
    branch.run("tracks", min_visible_share=0.999, max_rejected_share=0.99)
    rows = read_table(branch.root / "datasets" / "tracks" / "tracks.parquet").to_dict("records")
    assert any("of the points are visible (below 100%)" in row["reason"] for row in rows)
