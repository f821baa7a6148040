"""Shape letters: T frames, H height, W width."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from more4d.inference.reconstruction import Reconstruction, load_motion_vae, reconstruct_trajectories
from more4d.models.bundle import Models
from more4d.models.vae import MotionVAE
from more4d.scenes import RenderedScene


@pytest.fixture(scope="module")
def found(models: Models, rendered: list[RenderedScene]) -> Reconstruction:
    """The first scene through a VAE with random weights."""
    return reconstruct_trajectories(models.vae, rendered[0].points, rendered[0].intrinsics)


def test_the_error_is_the_distance_between_decoded_and_true_points(
    found: Reconstruction, rendered: list[RenderedScene]
) -> None:
    truth = rendered[0].points
    assert found.points.shape == truth.shape and found.motion_map.shape == truth.shape
    assert found.latent.shape == (16, 2, 4, 6) and found.motion_map.dtype == np.uint8
    np.testing.assert_allclose(found.error, np.linalg.norm(found.points - truth, axis=-1), atol=1e-6)
    np.testing.assert_allclose(found.mean_error, found.error.mean(0), rtol=1e-5)
    np.testing.assert_array_equal(found.max_error, found.error.max(0))
    assert found.max_error.max() > 0


def test_the_first_frame_comes_back_exactly(found: Reconstruction, rendered: list[RenderedScene]) -> None:
    np.testing.assert_array_equal(found.points[0], rendered[0].points[0])
    assert not found.error[0].any()


def test_what_does_not_move_comes_back_and_its_map_is_grey(models: Models, rendered: list[RenderedScene]) -> None:
    still = np.broadcast_to(rendered[0].points[0], rendered[0].points.shape)
    found = reconstruct_trajectories(models.vae, still, rendered[0].intrinsics)
    np.testing.assert_allclose(found.points, still, atol=1e-5)
    assert set(np.unique(found.motion_map)) <= {127, 128}


def test_unknown_points_stay_unknown_and_leave_the_rest_finite(models: Models, rendered: list[RenderedScene]) -> None:
    points = rendered[0].points.copy()
    points[:, 0, 0] = np.nan
    points[3, 5, 7] = np.nan
    points[0, 9, 9, 2] = -1
    found = reconstruct_trajectories(models.vae, points, rendered[0].intrinsics)
    unknown = np.zeros(points.shape[:3], bool)
    unknown[:, 0, 0] = unknown[:, 9, 9] = unknown[3, 5, 7] = True
    np.testing.assert_array_equal(np.isnan(found.error), unknown)
    assert np.isnan(found.mean_error).sum() == np.isnan(found.max_error).sum() == 2
    assert np.isfinite(found.latent).all() and np.isfinite(found.points[3, 5, 7]).all()


def test_measures_are_eq_7_over_visible_points_beside_nothing_moves(
    found: Reconstruction, rendered: list[RenderedScene]
) -> None:
    scene = rendered[0]
    measures = found.measures(scene.points, scene.visibility)
    assert measures["trajectory_error_m"] == pytest.approx(found.error[scene.visibility].mean(), rel=1e-5)
    static = np.linalg.norm(scene.points - scene.points[0], axis=-1)[scene.visibility]
    assert measures["nothing_moves_error_m"] == pytest.approx(static.mean(), rel=1e-5)
    assert measures["positions"] == scene.visibility.sum()
    with pytest.raises(ValueError, match=r"none of 7680 positions is visible"):
        found.measures(scene.points, np.zeros_like(scene.visibility))


def test_the_published_units_do_not_depend_on_the_camera(
    models: Models, found: Reconstruction, rendered: list[RenderedScene]
) -> None:
    scene = rendered[0]
    long_lens = scene.intrinsics * np.array([2, 2, 1], np.float32)[:, None]
    own = reconstruct_trajectories(models.vae, scene.points, long_lens)
    assert not np.allclose(own.latent, found.latent, atol=1e-3)
    published = [
        reconstruct_trajectories(models.vae, scene.points, intrinsics, camera="published")
        for intrinsics in (scene.intrinsics, long_lens)
    ]
    np.testing.assert_array_equal(published[0].latent, published[1].latent)
    np.testing.assert_array_equal(published[0].points, published[1].points)


def test_a_vae_in_half_precision_gives_nearly_the_same(
    models: Models, found: Reconstruction, rendered: list[RenderedScene]
) -> None:
    half = MotionVAE(models.config.motion_vae)
    half.load_state_dict(models.vae.state_dict())
    rough = reconstruct_trajectories(half.to(torch.bfloat16).eval(), rendered[0].points, rendered[0].intrinsics)
    assert rough.points.dtype == rough.latent.dtype == np.float32
    assert np.abs(rough.latent - found.latent).max() < 0.05 * np.abs(found.latent).max()


@pytest.mark.parametrize("shape", [(4, 32, 48, 3), (5, 30, 48, 3), (5, 32, 20, 3)])
def test_a_size_that_does_not_fold_is_refused(models: Models, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"{shape[0]} frames of {shape[1]}x{shape[2]} do not fold"):
        reconstruct_trajectories(models.vae, np.ones(shape, np.float32), np.eye(3, dtype=np.float32))
    with pytest.raises(ValueError, match=r"\[T,H,W,3\], not \[5, 32, 3\]"):
        reconstruct_trajectories(models.vae, np.ones((5, 32, 3), np.float32), np.eye(3, dtype=np.float32))


def test_the_vae_is_loaded_alone_from_a_checkpoint_or_a_lineage(
    models: Models, checkpoint: Path, workspace: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("config.json", "vae.safetensors"):
        shutil.copy(checkpoint / name, alone)
    for folder in (alone, workspace / "models"):
        vae = load_motion_vae(folder)
        assert isinstance(vae, MotionVAE) and not any(p.requires_grad for p in vae.parameters())
        assert torch.equal(vae.vae.first_basis, models.vae.vae.first_basis)
    with pytest.raises(ValueError, match="no checkpoint at"):
        load_motion_vae(tmp_path / "nowhere")
