import numpy as np
import pytest
import torch
from more4d.models.bundle import Models
from more4d.models.conditions import depth_latent, image_latent, to_unit_range
from more4d.scenes import RenderedScene
from more4d.training.base_scenes import BaseScenes
from more4d.training.base_sources import MotionScenes, STraGScenes, metres_per_unit, mirror, mirror_caption


@pytest.fixture
def scenes(base_scenes: BaseScenes) -> MotionScenes:
    """Three scenes and their mirror images."""
    return MotionScenes(base_scenes)


def test_a_mirrored_caption_exchanges_left_and_right() -> None:
    caption = "a fox runs to the left and a leftover ball rolls towards the camera, right of it"
    mirrored = "a fox runs to the right and a leftover ball rolls towards the camera, left of it"
    assert mirror_caption(caption) == mirrored
    assert mirror_caption(mirrored) == caption


def test_mirroring_twice_changes_nothing(scenes: MotionScenes) -> None:
    sample = scenes._sample(1)
    again = mirror(mirror(sample))
    assert all(np.array_equal(again[key], value) for key, value in sample.items())
    assert not np.array_equal(mirror(sample)["video"], sample["video"])


def test_the_second_half_is_the_first_in_a_mirror(scenes: MotionScenes) -> None:
    assert scenes.size == 6
    plain, mirrored = scenes.batch(torch.tensor([1])), scenes.batch(torch.tensor([4]))
    sideways = torch.tensor([-1.0, 1, 1]).reshape(1, 3, 1, 1, 1)
    assert torch.equal(mirrored["motion"], plain["motion"].flip(-1) * sideways)
    for key in ("visible", "unit", "video", "image", "depth"):
        assert torch.equal(mirrored[key], plain[key].flip(-1)), key


def test_what_moves_moves_as_its_caption_says_in_the_mirror_too(scenes: MotionScenes) -> None:
    indices = torch.arange(6)
    sideways = scenes.batch(indices)["motion"][:, 0, -1].sum(dim=(1, 2))
    said = ["right" in caption for caption in scenes.captions(indices)]
    assert said == [False, True, False, True, False, True]
    assert (sideways > 0).tolist() == said


def test_motion_times_its_unit_is_metres(scenes: MotionScenes, rendered: list[RenderedScene]) -> None:
    batch = scenes.batch(torch.tensor([0]))
    metres = (batch["motion"] * batch["unit"][:, :, None])[0].permute(1, 2, 3, 0)
    assert np.allclose(metres.numpy(), rendered[0].points - rendered[0].points[0], atol=2e-3)
    unit = metres_per_unit(np.full((2, 4), 3.0), np.diag([8.0, 6.0, 1.0]))
    assert unit[:, 0, 0].tolist() == [3 * 4 / 8, 3 * 2 / 6, 3]


def test_a_batch_is_typed_and_shaped_as_the_objectives_want_it(scenes: MotionScenes) -> None:
    batch = scenes.batch(torch.tensor([5, 0]))
    found = {key: (tuple(value.shape), value.dtype) for key, value in batch.items()}
    assert found == {
        "motion": ((2, 3, 5, 32, 48), torch.float32),
        "visible": ((2, 5, 32, 48), torch.bool),
        "unit": ((2, 3, 32, 48), torch.float32),
        "video": ((2, 3, 5, 32, 48), torch.float32),
        "image": ((2, 3, 32, 48), torch.uint8),
        "depth": ((2, 32, 48), torch.float32),
    }
    assert torch.equal(batch["video"][:, :, 0], to_unit_range(batch["image"]))


def test_strag_is_given_latents_tokens_and_features_of_its_own_sample(scenes: MotionScenes, models: Models) -> None:
    features = torch.arange(6.0).reshape(6, 1, 1).expand(6, 4, 24).half()
    source = STraGScenes(scenes, models.vae, models.text, features, "log")
    found, batch = source.batch(torch.tensor([4, 0])), scenes.batch(torch.tensor([4, 0]))
    assert torch.allclose(found["motion_latent"], models.vae.encode_motion(batch["motion"]), atol=1e-6)
    assert torch.equal(found["image_latent"], image_latent(models.vae, batch["video"][:, :, 0], 5))
    assert torch.equal(found["depth_latent"], depth_latent(models.vae, batch["depth"], 5, "log"))
    assert found["motion_features"][:, 0, 0].tolist() == [4, 0]
    ids, mask = models.text.tokenize(["a patch moves to the left", "a patch moves to the left"])
    assert torch.equal(found["ids"], ids) and torch.equal(found["ids_mask"], mask)
    assert torch.equal(found["motion"], batch["motion"])


def test_latents_of_a_trained_trajectory_encoder_are_refused(scenes: MotionScenes, models: Models) -> None:
    bias = models.vae.trajectory_encoder.net.conv_out.bias
    assert bias is not None
    bias.data[0] = 0.1
    try:
        with pytest.raises(ValueError, match="untrained trajectory encoder"):
            STraGScenes(scenes, models.vae, models.text, torch.zeros(6, 4, 24), "log")
    finally:
        bias.data[0] = 0.0
