import math
from pathlib import Path

import numpy as np
import pytest
import torch
from more4d.models.depth import TINY, DepthNetwork, RawDepth
from more4d.training import augment
from more4d.training.depth import DepthObjective, DepthSamples, depth_losses, evaluate_depth
from more4d.training.loop import TrainSettings, train

SMALL = TINY.model_copy(update={"height": 32, "width": 48, "channels": (8, 16, 16)})
SETTINGS = TrainSettings(steps=20, batch_size=4, learning_rate=0.005, warmup_steps=2, log_every=5)


def steps_into_the_distance(count: int) -> DepthSamples:
    """Pictures whose brightness tells their depth: bands from near at the bottom to far at the top."""
    rng = np.random.default_rng(0)
    rows = np.linspace(0, 1, 32, dtype=np.float32)[:, None] * np.ones((1, 48), np.float32)
    depths = np.stack([10 - 8 * np.clip(rows + rng.uniform(-0.2, 0.2), 0, 1) for _ in range(count)])
    images = np.repeat((depths * 25)[..., None], 3, axis=-1).astype(np.uint8)
    camera = np.array([[50, 0, 24], [0, 50, 16], [0, 0, 1]], np.float32)
    return DepthSamples(images, depths.astype(np.float32), np.tile(camera, (count, 1, 1)))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_loss_falls_over_twenty_steps(tmp_path: Path) -> None:
    objective = DepthObjective(steps_into_the_distance(16), SMALL, seed=0)
    history = train(objective, SETTINGS, seed=0, work=tmp_path).history
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert history[-1]["scale"] < history[0]["scale"]


def test_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"steps": 4})
    runs = []
    for name in ("a", "b"):
        objective = DepthObjective(steps_into_the_distance(8), SMALL, seed=3)
        runs.append(train(objective, settings, seed=3, work=tmp_path / name).ema)
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])
    other = DepthObjective(steps_into_the_distance(8), SMALL, seed=4).network.state_dict()
    assert not torch.equal(other["camera.weight"], runs[0]["camera.weight"])


def test_a_perfect_prediction_loses_nothing_but_confidence() -> None:
    depth = torch.rand(2, 32, 48) + 1
    median = depth.log().flatten(1).median(1).values
    camera = torch.tensor([[50.0, 0, 24], [0, 50, 16], [0, 0, 1]]).expand(2, 3, 3)
    focal = torch.full((2,), math.log(50 / math.sqrt(32 * 48)))
    raw = RawDepth(depth.log() - median[:, None, None], median, torch.zeros_like(depth), focal)
    losses = depth_losses(raw, depth, camera)
    for name in ("relative", "gradient", "scale", "focal"):
        assert losses[name].item() == pytest.approx(0, abs=1e-6), name


def test_the_constant_plane_scores_its_own_error() -> None:
    samples = steps_into_the_distance(4)
    network = DepthNetwork.from_config(SMALL)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    found = evaluate_depth(network, samples, with_camera=True)
    truth = torch.from_numpy(samples.depths)
    median = truth.flatten(1).median(1).values[:, None, None]
    assert found["plane_log_error"] == pytest.approx(float((median / truth).log().abs().mean()), rel=1e-5)
    assert found["ratio"] == pytest.approx(found["plane_log_error"] / found["log_error"])
    assert found["focal_error"] == 0


def test_cropping_moves_the_intrinsics_with_the_picture() -> None:
    rows, columns = torch.meshgrid(torch.arange(32.0) + 0.5, torch.arange(48.0) + 0.5, indexing="ij")
    camera = torch.tensor([[[50.0, 0, 20], [0, 40, 15], [0, 0, 1]]])
    slopes = torch.stack(((columns - 20) / 50, (rows - 15) / 40, torch.ones_like(rows)))[None]
    image, _, moved = augment.crop_images(slopes, torch.ones(1, 32, 48), camera, 0.6, generator(2))
    assert moved[0, 0, 0] > 50
    expected = torch.stack(((columns - moved[0, 0, 2]) / moved[0, 0, 0], (rows - moved[0, 1, 2]) / moved[0, 1, 1]))
    # The outermost pixels of a crop at the picture's edge are extrapolated.
    torch.testing.assert_close(image[0, :2, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=1e-4, rtol=0)


def test_flipping_mirrors_picture_depth_and_principal_point() -> None:
    image, depth = torch.rand(16, 3, 8, 12), torch.rand(16, 8, 12)
    camera = torch.tensor([[10.0, 0, 4], [0, 10, 4], [0, 0, 1]]).repeat(16, 1, 1)
    flipped, moved_depth, moved = augment.flip_images(image, depth, camera, generator())
    mirrored = moved[:, 0, 2] == 8
    assert 0 < int(mirrored.sum()) < 16
    assert torch.equal(flipped[mirrored], image[mirrored].flip(-1))
    assert torch.equal(moved_depth[mirrored], depth[mirrored].flip(-1))
    assert torch.equal(flipped[~mirrored], image[~mirrored])


def test_colour_blur_compression_and_noise_stay_in_range_and_follow_the_seed() -> None:
    image = torch.rand(4, 3, 16, 24, generator=generator())

    def worsen(seed: int) -> torch.Tensor:
        draw = generator(seed)
        out = augment.blur_images(augment.change_colours(image, draw), 1.0, draw)
        return augment.add_noise(augment.compress_images(out, 0.05, draw), 0.03, draw)

    assert torch.equal(worsen(1), worsen(1))
    assert not torch.equal(worsen(1), worsen(2))
    assert worsen(1).min() >= 0
    assert worsen(1).max() <= 1


def test_cosine_transform_is_orthonormal_and_fine_steps_change_little() -> None:
    basis = augment.cosine_basis(8)
    torch.testing.assert_close(basis @ basis.T, torch.eye(8))
    image = torch.rand(2, 3, 16, 24, generator=generator())
    torch.testing.assert_close(augment.compress_images(image, 0.0, generator()), image, atol=5e-3, rtol=0)
