"""Claims about more4d.stages.trajscene."""

from typing import Any

import numpy as np
import pytest
from more4d.data.shards import TrajSceneDataset, verify_shards
from more4d.data.tables import read_table
from more4d.data.tensors import read_arrays, write_arrays
from more4d.presets import TINY
from more4d.stages.base import fingerprint
from more4d.stages.trajscene import TrajsceneParams
from pydantic import ValidationError


def test_splits_are_the_sources_and_shards_are_sound(lineage: Any) -> None:
    folder = lineage.root / "datasets" / "trajscene"
    assert verify_shards(str(folder)) == []
    train, val = TrajSceneDataset(folder, "train"), TrajSceneDataset(folder, "val")
    assert {name[:12] for name in val.ids} == {"rendered-600"}
    assert sum(name.startswith("rendered-200") for name in train.ids) == 2
    rows = read_table(folder / "verdicts.parquet").to_dict("records")
    assert [row["clip_id"] for row in rows if row["verdict"] == "accepted"] == [*train.ids, *val.ids]


def test_a_rendered_sample_has_truth_renders_and_its_whole_history(lineage: Any) -> None:
    sample = TrajSceneDataset(lineage.root / "datasets" / "trajscene", "val")[0]
    truth, facts = read_arrays(lineage.root / "datasets" / "source" / "truth" / f"{sample.id[:-6]}.safetensors")
    np.testing.assert_allclose(sample.points, truth["points"], rtol=2e-3, atol=2e-2)
    np.testing.assert_array_equal(sample.views["circle_left"].video, truth["view_circle_left_video"])
    assert sample.views["spiral"].video is None
    assert sample.render_mask[0].mean() > 0.99
    shown = sample.render_mask[0]
    assert np.abs(sample.render[0][shown].astype(int) - sample.video[0][shown]).mean() < 12
    assert sample.provenance["scene"]["seed"] == facts["seed"]
    assert sample.provenance["labels"]["tracker"] == "ground_truth"
    assert sample.provenance["source"]["source_row"] == facts["seed"]


def test_a_real_sample_names_its_source_row_and_models(lineage: Any) -> None:
    dataset = TrajSceneDataset(lineage.root / "datasets" / "trajscene", "train", with_views=False)
    sample = dataset[dataset.ids.index("walk-00000")]
    assert (sample.kind, sample.caption) == ("real", "A dog runs to the right")
    assert sample.provenance["source"]["attribution"] == "someone"
    assert sample.provenance["labels"]["depth_model"] == "more4d-depth"


def test_same_inputs_give_the_same_bytes(branch: Any) -> None:
    before = fingerprint(branch.root / "datasets" / "trajscene")
    branch.run("trajscene")
    assert fingerprint(branch.root / "datasets" / "trajscene") == before


def test_a_sample_broken_in_depth_is_rejected_with_its_value(branch: Any) -> None:
    path = next((branch.root / "datasets" / "tracks").glob("rendered-200*.safetensors"))
    arrays, facts = read_arrays(path)
    arrays["points"][2, :16] = np.nan
    write_arrays(path, arrays, facts)
    branch.run("trajscene")
    folder = branch.root / "datasets" / "trajscene"
    rows = {row["clip_id"]: row for row in read_table(folder / "verdicts.parquet").to_dict("records")}
    assert rows[path.stem]["verdict"] == "rejected"
    assert rows[path.stem]["anomalous_share"] == pytest.approx(0.5)
    assert "50.00% of the trajectories have invalid" in rows[path.stem]["reason"]
    assert path.stem not in TrajSceneDataset(folder).ids


def test_tracks_of_another_clip_are_rejected(branch: Any) -> None:
    path = next((branch.root / "datasets" / "tracks").glob("rendered-200*.safetensors"))
    arrays, facts = read_arrays(path)
    arrays["points"][1:] = arrays["points"][1:, ::-1]
    write_arrays(path, arrays, facts)
    branch.run("trajscene", quality=TINY["trajscene"]["quality"])
    rows = read_table(branch.root / "datasets" / "trajscene" / "verdicts.parquet").to_dict("records")
    assert any("tracks move otherwise" in row["reason"] for row in rows if row["clip_id"] == path.stem)


def test_an_unknown_camera_is_refused(lineage: Any) -> None:
    with pytest.raises(ValidationError, match="unknown camera 'sideways'"):
        TrajsceneParams.model_validate({"views": ["sideways"]})
