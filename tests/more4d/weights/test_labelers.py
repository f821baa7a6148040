"""Claims about more4d.weights.labelers."""

from pathlib import Path

import pytest
from more4d.labeling.depth import DEPTH_ESTIMATORS, WORKER_NAMES
from more4d.labeling.external import ExternalDepths, ExternalTrackers
from more4d.labeling.tracks import TRACKERS
from more4d.labeling.worker.labeler import NETWORKS
from more4d.weights.labelers import LABELERS, labeler_licences, refuse_noncommercial

ROOT = Path(__file__).parents[3]


def test_every_labeler_of_others_is_in_the_shipped_registry() -> None:
    own = {"ground_truth", "network", "flow"}
    assert {*DEPTH_ESTIMATORS, *TRACKERS} - own == set(LABELERS)
    assert {*ExternalDepths.model_fields, *ExternalTrackers.model_fields} == set(LABELERS)
    assert set(WORKER_NAMES) == set(ExternalDepths.model_fields)
    assert {*WORKER_NAMES.values(), *ExternalTrackers.model_fields} == set(NETWORKS)
    assert set(NETWORKS) == {path.parent.name for path in ROOT.glob("infra/labelers/*/setup.sh")}
    licences = {"unidepth_v2": "CC BY-NC 4.0", "moge": "MIT", "delta": "Snap non-commercial"}
    assert labeler_licences(LABELERS, ROOT) == licences


def test_those_that_forbid_commercial_use_are_refused_with_another_way(tmp_path: Path) -> None:
    refuse_noncommercial(["moge", "network", "ground_truth"], ROOT, stage="depth")
    with pytest.raises(ValueError, match=r"stage depth: .* unidepth_v2 is .*CC BY-NC 4.0.* use MoGe \(MIT\) instead"):
        refuse_noncommercial(["moge", "unidepth_v2"], ROOT, stage="depth")
    with pytest.raises(ValueError, match="delta is .* use optical-flow chaining"):
        refuse_noncommercial(["delta"], ROOT, stage="tracks")


def test_no_registry_is_needed_where_no_labeler_of_others_is_chosen(tmp_path: Path) -> None:
    refuse_noncommercial(["network", "flow"], tmp_path, stage="depth")
    assert labeler_licences(["ground_truth"], tmp_path) == {}
    with pytest.raises(ValueError, match="no registry of weights"):
        labeler_licences(["moge"], tmp_path)
