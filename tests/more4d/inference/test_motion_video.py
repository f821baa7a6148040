import numpy as np
import pytest
import torch
from more4d.data.sample import Sample
from more4d.inference.motion_video import MotionVideo
from more4d.inference.render import render_path
from more4d.models.bundle import Models
from more4d.training.latents import true_motion


def test_both_motions_are_rendered_side_by_side_by_one_camera(models: Models, samples: list[Sample]) -> None:
    true = true_motion(samples[1], models.vae.config.motion_camera)["motion"]
    video = MotionVideo(samples.__getitem__, models.vae)(1, torch.zeros_like(true), true)
    assert video.shape == (5, 32, 96, 3)
    still, moving = video[:, :, :48], video[:, :, 48:]
    poses = np.tile(np.eye(4, dtype=np.float32), (5, 1, 1))
    expected, _ = render_path(samples[1].points, samples[1].video[0], samples[1].intrinsics, poses)
    assert np.abs(moving.astype(int) - expected).mean() < 1
    assert np.array_equal(still[0], still[4])
    assert np.array_equal(still[0], moving[0])
    assert not np.array_equal(moving[0], moving[4])


def test_another_camera_sees_what_stays_move(models: Models, samples: list[Sample]) -> None:
    still = torch.zeros(3, 5, 32, 48)
    video = MotionVideo(samples.__getitem__, models.vae, "circle_left")(0, still, still)
    assert not np.array_equal(video[0], video[3])
    with pytest.raises(ValueError, match="unknown camera 'sideways'"):
        MotionVideo(samples.__getitem__, models.vae, "sideways")(0, still, still)
