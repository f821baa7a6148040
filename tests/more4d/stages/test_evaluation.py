import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from more4d.data.sample import Sample
from more4d.data.tensors import write_arrays
from more4d.stages.base import StageResult, VideoSpec, run_stage
from more4d.stages.evaluation import STAGE, EvaluationParams

VIDEO = VideoSpec(frames=5, height=32, width=48, fps=8.0)


def _predict(root: Path, sample: Sample, motion: np.ndarray) -> None:
    folder = root / "results" / "samples" / sample.id
    folder.mkdir(parents=True)
    arrays = {"motion": motion.astype(np.float16), "motion_vae": motion.astype(np.float16), "depth": sample.depth}
    write_arrays(folder / "prediction.safetensors", arrays, {"id": sample.id})
    (folder.parent / "stereo.json").write_text(json.dumps({"stereo_motorcycle_error": 0.25}))


def _run(root: Path) -> StageResult:
    return run_stage(STAGE, params=EvaluationParams(baseline_samples=8), video=VIDEO, seed=0, workers=1, root=root)


@pytest.mark.parametrize(("share", "ratio"), [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
def test_a_perfect_prediction_scores_0_and_a_still_one_1(
    workspace: Path, samples: list[Sample], share: float, ratio: float
) -> None:
    val = samples[2]
    _predict(workspace, val, share * (val.points - val.points[0]))
    metrics = _run(workspace).metrics
    # The shards keep tracks to a twentieth of a pixel, the prediction to eleven bits.
    assert metrics["model_moving_ratio"] == pytest.approx(ratio, abs=0.01)
    assert metrics["vae_all_ratio"] == metrics["model_all_ratio"]
    assert metrics["depth_log_error"] < 1e-3
    assert metrics["stereo_motorcycle_error"] == 0.25
    assert metrics["caption_lookup_moving_ratio"] < 0.05


def test_the_table_holds_the_sums_behind_the_figures(workspace: Path, samples: list[Sample]) -> None:
    val = samples[2]
    _predict(workspace, val, 0.5 * (val.points - val.points[0]))
    metrics = _run(workspace).metrics
    folder = workspace / "results" / "evaluation"
    assert json.loads((folder / "evaluation.json").read_text()) == metrics
    table = pd.read_parquet(folder / "per_sample.parquet")
    assert list(table["id"]) == [val.id]
    ratio = table["model_moving_error"].sum() / table["moving_static"].sum()
    assert metrics["model_moving_ratio"] == pytest.approx(ratio, abs=1e-6)
    assert all(np.isfinite(value) for value in metrics.values())


def test_predictions_of_unknown_samples_stop_the_stage(workspace: Path, samples: list[Sample]) -> None:
    _predict(workspace, samples[0], np.zeros_like(samples[0].points))
    with pytest.raises(ValueError, match="1 of 1 predictions .* run the stage samples again"):
        _run(workspace)
