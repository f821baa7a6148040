"""Claims about more4d.stages.depth."""

from pathlib import Path
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


def test_an_external_estimator_labels_the_real_clips_and_its_licence_goes_with_them(
    branch: Any, labeler_environment: Path
) -> None:
    external = _external(branch.root, labeler_environment)
    branch.run("depth", real="moge", external=external, commercial_only=True)
    folder = branch.root / "datasets" / "depth"
    rows = {row["clip_id"]: row for row in read_table(folder / "depth.parquet").to_dict("records")}
    made = rows["walk-00000"]
    assert (made["verdict"], made["model"], made["licence"]) == ("accepted", "moge", "MIT")
    assert read_arrays(folder / "walk-00000.safetensors")[1]["version"] == made["version"]
    assert {row["model"] for row in rows.values()} == {"moge", "ground_truth"}
    assert not list((branch.root / ".cache" / "work").glob("depth-*"))
    assert not list((branch.root / ".cache" / "labelers").iterdir())


def test_commercial_only_refuses_an_estimator_that_forbids_it_and_names_another(
    branch: Any, labeler_environment: Path
) -> None:
    external = _external(branch.root, labeler_environment)
    with pytest.raises(ValueError, match=r"commercial_only is set, and unidepth_v2 is .* use MoGe \(MIT\) instead"):
        branch.run("depth", real="unidepth_v2", external=external, commercial_only=True)


def _external(root: Path, python: Path) -> dict[str, Any]:
    (root / "weights").write_text("metric")
    given = {"python": str(python), "weights": "weights", "device": "cpu", "resolution_level": 3}
    return {"unidepth_v2": given, "moge": given | {"dtype": "float32"}}
