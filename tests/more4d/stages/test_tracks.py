"""Claims about more4d.stages.tracks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from more4d.data.tables import TooManyRejectsError, read_table, write_table
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
    branch.run("tracks", min_visible_share=0.98, max_rejected_share=0.99)
    rows = read_table(branch.root / "datasets" / "tracks" / "tracks.parquet").to_dict("records")
    assert any("of the points are visible (below 98%)" in row["reason"] for row in rows)


def test_delta_tracks_the_real_clips_in_the_same_schema(branch: Any, labeler_environment: Path) -> None:
    branch.run("tracks", real="delta", external=_delta(branch.root, labeler_environment))
    folder = branch.root / "datasets" / "tracks"
    arrays, facts = read_arrays(folder / "walk-00000.safetensors")
    depths, _ = read_arrays(branch.root / "datasets" / "depth" / "walk-00000.safetensors")
    assert (facts["tracker"], facts["licence"], facts["depth_model"]) == (
        "delta",
        "Snap non-commercial",
        "more4d-depth",
    )
    assert arrays["points"].shape == (5, 32, 48, 3) and arrays["visibility"][0].all()
    np.testing.assert_allclose(arrays["points"][0, ..., 2], depths["depths"][0], rtol=1e-6)
    np.testing.assert_array_equal(arrays["depth0"], depths["depths"][0])


def test_after_a_stage_failed_its_answers_serve_other_settings_of_the_stage(
    branch: Any, labeler_environment: Path
) -> None:
    given = _delta(branch.root, labeler_environment)
    with pytest.raises(TooManyRejectsError):
        branch.run("tracks", real="delta", external=given, min_visible_share=0.96)
    kept = list((branch.root / ".cache" / "labelers").glob("delta-*/answers/walk-*.safetensors"))
    assert kept
    # Nothing is asked: this is no interpreter.
    (branch.root / "python").write_text("no program")
    given["delta"] |= {"python": "python", "clip_seconds": 1}
    branch.run("tracks", real="delta", external=given, min_visible_share=0.96, max_rejected_share=0.99)
    rows = read_table(branch.root / "datasets" / "tracks" / "tracks.parquet")
    assert "delta" in set(rows["tracker"])
    assert not list((branch.root / ".cache" / "labelers").iterdir())


def test_commercial_only_refuses_delta_and_tracks_over_depth_that_forbids_it(branch: Any) -> None:
    with pytest.raises(ValueError, match=r"delta is .* use optical-flow chaining"):
        branch.run("tracks", real="delta", commercial_only=True)
    branch.run("tracks", commercial_only=True)
    path = branch.root / "datasets" / "depth" / "depth.parquet"
    write_table(path, read_table(path).assign(model="unidepth_v2"))
    with pytest.raises(ValueError, match=r"unidepth_v2 is .* use MoGe \(MIT\) instead"):
        branch.run("tracks", commercial_only=True)


def _delta(root: Path, python: Path) -> dict[str, Any]:
    torch.save({"step": torch.tensor([1.0, 0.0])}, root / "densetrack3d.pth")
    given = {"python": str(python), "weights": "densetrack3d.pth", "device": "cpu", "resolution": [32, 64]}
    return {"delta": given | {"upsample_factor": 8}}
