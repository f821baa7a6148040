import numpy as np
import pytest
import torch
from more4d.evaluation.predict import Sampling, predict_depths, predict_points, through_vae, without_holes
from more4d.models.bundle import Models
from more4d.scenes import RenderedScene
from torch import Tensor


def test_predictions_start_at_the_given_depth(models: Models, rendered: list[RenderedScene]) -> None:
    pictures, cameras = [s.video[0] for s in rendered], [s.intrinsics for s in rendered]
    points = predict_points(
        models, pictures, [s.caption for s in rendered], [s.depth for s in rendered], cameras, Sampling.of(models)
    )
    assert points.shape == (3, *rendered[0].points.shape)
    assert np.abs(points[:, 0] - np.stack([s.points[0] for s in rendered])).max() < 1e-4
    assert predict_depths(models, pictures, cameras).shape == points.shape[:1] + points.shape[2:4]


def test_truth_through_the_vae_keeps_its_first_frame(models: Models, rendered: list[RenderedScene]) -> None:
    rebuilt = through_vae(models, [s.points for s in rendered], [s.intrinsics for s in rendered])
    assert np.abs(rebuilt[:, 0] - np.stack([s.points[0] for s in rendered])).max() < 1e-5
    assert np.isfinite(rebuilt).all()


def test_missing_depth_takes_the_median() -> None:
    depth = np.array([[1, 2, 3], [0, np.nan, np.inf]], np.float32)
    assert without_holes(depth).tolist() == [[1, 2, 3], [2, 2, 2]]
    with pytest.raises(ValueError, match="none of 4 depths"):
        without_holes(np.zeros((2, 2), np.float32))


def test_a_checkpoint_of_published_units_undoes_them_when_it_predicts(
    models: Models, rendered: list[RenderedScene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the VAE's network hands the motion on, so that only its units are left to compare."""
    seen: list[Tensor] = []
    monkeypatch.setattr(models.vae, "encode_motion", lambda motion: seen.append(motion) or motion)
    monkeypatch.setattr(models.vae, "decode_motion", lambda latent: latent)
    published = models.vae.config.model_copy(update={"motion_camera": "published"})
    longer = [np.diag([1.5, 1.5, 1]).astype(np.float32) @ s.intrinsics for s in rendered]
    for config in (models.vae.config, published):
        monkeypatch.setattr(models.vae, "_shape", config)
        rebuilt = through_vae(models, [s.points for s in rendered], longer)
        np.testing.assert_allclose(rebuilt, np.stack([s.points for s in rendered]), atol=1e-4)
    assert not torch.allclose(seen[0], seen[1], rtol=1e-2)
