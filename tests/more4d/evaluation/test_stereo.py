from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from more4d.evaluation.stereo import StereoTruth, stereo_figures, stereo_truths
from more4d.models.bundle import Models


def test_the_motorcycle_is_always_there_and_aloe_where_its_files_are(tmp_path: Path) -> None:
    assert [truth.name for truth in stereo_truths(None)] == ["motorcycle"]
    cv2.imwrite(str(tmp_path / "aloeL.jpg"), np.full((111, 128, 3), 90, np.uint8))
    codes = np.tile(np.linspace(0, 211, 128).astype(np.uint8), (111, 1))
    cv2.imwrite(str(tmp_path / "aloeGT.png"), codes)
    motorcycle, aloe = stereo_truths(tmp_path)
    assert motorcycle.image.shape[:2] == motorcycle.inverse_depth.shape
    assert 0.5 < np.isfinite(motorcycle.inverse_depth).mean() < 1
    assert np.isnan(aloe.inverse_depth[:, 0]).all()


def test_a_prediction_that_is_right_up_to_scale_and_shift_has_no_error(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = models.config.generation.height, models.config.generation.width
    true = np.random.default_rng(0).uniform(1, 2, size).astype(np.float32)

    class Answer:
        depth = torch.from_numpy(1 / (3 * true + 0.5))[None]

    monkeypatch.setattr(models.depth, "infer", lambda rgb, camera: Answer())
    truth = StereoTruth("made_up", np.zeros((*size, 3), np.uint8), true, None)
    figures = stereo_figures(models, iter([truth]))
    assert figures["stereo_made_up_error"] < 1e-4
    assert figures["stereo_made_up_correlation"] == pytest.approx(1, abs=1e-4)
    assert figures["stereo_made_up_plane_error"] > 0.1
