from pathlib import Path

import numpy as np
import pytest
import torch
from more4d.models.motion_encoder import TINY, MaskedAutoencoder, MotionEncoder
from more4d.training.loop import TrainSettings, train
from more4d.training.motion_encoder import (
    MotionEncoderObjective,
    choose_frames,
    evaluate_reconstruction,
    masked_loss,
    probe_moving,
    tube_mask,
)

SMALL = TINY.model_copy(update={"image_size": 32, "dim": 32, "depth": 2, "heads": 2, "decoder_dim": 32})
SETTINGS = TrainSettings(steps=20, batch_size=8, learning_rate=0.003, warmup_steps=2, log_every=5)


def stripes(count: int) -> np.ndarray:
    """Clips uint8 [N,6,32,48,3] of vertical stripes that drift: easy to continue."""
    phase = np.random.default_rng(0).uniform(0, 6, (count, 1, 1, 1))
    time, columns = np.arange(6)[:, None, None], np.arange(48)
    waves = 128 + 100 * np.sin(columns / 3 + phase + time / 4) * np.ones((1, 1, 32, 1))
    return np.repeat(waves[..., None], 3, axis=-1).astype(np.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_loss_falls_over_twenty_steps(tmp_path: Path) -> None:
    objective = MotionEncoderObjective(stripes(16), SMALL, seed=0)
    history = train(objective, SETTINGS, seed=0, work=tmp_path).history
    assert history[-1]["loss"] < 0.95 * history[0]["loss"]


def test_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"steps": 4})
    runs = []
    for name in ("a", "b"):
        objective = MotionEncoderObjective(stripes(8), SMALL, seed=3)
        runs.append(train(objective, settings, seed=3, work=tmp_path / name).ema)
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])


def test_the_mask_hides_the_same_places_at_every_moment() -> None:
    visible, hidden = tube_mask(3, 2, 64, 0.9, generator())
    assert (visible.shape, hidden.shape) == ((3, 12), (3, 116))
    assert torch.equal(visible[:, 6:], visible[:, :6] + 64)
    together = torch.cat((visible, hidden), dim=1).sort(1).values
    assert torch.equal(together, torch.arange(128).expand(3, 128))
    assert not torch.equal(visible[0], visible[1])


def test_hidden_pixels_decide_the_loss_and_visible_ones_the_prediction() -> None:
    network = MaskedAutoencoder.from_config(SMALL).eval()
    clip = torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    first, second = (masked_loss(network, clip, generator(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, masked_loss(network, clip, generator(6)))


def test_predicting_nothing_scores_one() -> None:
    network = MaskedAutoencoder.from_config(SMALL).eval()
    torch.nn.init.zeros_(network.head.weight)
    clip = torch.randint(0, 256, (4, 3, 4, 32, 32), dtype=torch.uint8)
    assert float(masked_loss(network, clip, generator())) == pytest.approx(1.0, abs=0.01)


def test_chosen_frames_are_equally_spaced_and_inside_the_clip() -> None:
    video = torch.arange(13.0).reshape(1, 1, 13, 1, 1).expand(64, 3, 13, 2, 2)
    times = choose_frames(video, 4, generator())[:, 0, :, 0, 0]
    spacing = times.diff(dim=1)
    assert bool((spacing == spacing[:, :1]).all())
    assert set(spacing[:, 0].tolist()) == {1, 2, 3, 4}
    assert choose_frames(video, 1, generator()).shape == (64, 3, 1, 2, 2)


def test_evaluation_follows_its_seed() -> None:
    network = MaskedAutoencoder.from_config(SMALL)
    first, second = (evaluate_reconstruction(network, stripes(4), seed) for seed in (1, 1))
    assert first == second
    assert set(first) == {"clips", "images"}


def test_the_probe_finds_what_the_features_show() -> None:
    rng = np.random.default_rng(1)
    moving = rng.random((40, 4, 4)) < 0.3
    moving = moving.repeat(8, axis=1).repeat(8, axis=2)
    images = np.where(moving, 200, 20)[..., None].repeat(3, axis=-1).astype(np.uint8)
    encoder = MotionEncoder.from_config(SMALL)
    assert probe_moving(encoder, images, moving) > 0.9
    assert probe_moving(encoder, images, moving[::-1]) < 0.2


def test_clips_shorter_than_the_encoders_are_refused() -> None:
    with pytest.raises(ValueError, match="clips have 2 frames, fewer than the encoder's 4"):
        MotionEncoderObjective(stripes(2)[:, :2], SMALL, seed=0)
