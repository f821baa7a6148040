import numpy as np
import pytest
import torch
from more4d.models.bundle import Models
from more4d.models.conditions import fold_mask
from more4d.training.view_source import ViewPair, ViewPairs, video_tensor


@pytest.fixture
def pairs() -> list[ViewPair]:
    """Two random videos whose renders lack a strip."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(2):
        video = rng.integers(0, 256, (5, 32, 48, 3), dtype=np.uint8)
        mask = np.ones((5, 32, 48), bool)
        mask[:, :, 8 * number : 8 * number + 8] = False
        tokens = torch.full((8, 24), float(number)).half(), torch.full((5, 24), -float(number)).half()
        made.append(ViewPair(video, video * mask[..., None], mask, *tokens))
    return made


def test_a_batch_holds_both_latents_the_mask_and_what_belongs_to_each_pair(
    models: Models, pairs: list[ViewPair]
) -> None:
    source = ViewPairs(pairs, models.vae)
    batch = source.batch(torch.tensor([1, 0]))
    assert source.size == 2
    video = video_tensor(np.stack([pairs[1].video, pairs[0].video]))
    mask = torch.from_numpy(np.stack([pairs[1].mask, pairs[0].mask]))
    grey = torch.where(mask[:, None], video, torch.zeros_like(video))
    assert torch.equal(batch["video"], video)
    assert torch.equal(batch["holes"], ~mask)
    assert torch.equal(batch["mask"], fold_mask(mask))
    assert torch.allclose(batch["video_latent"], models.vae.encode_video(video))
    assert torch.allclose(batch["render_latent"], models.vae.encode_video(grey))
    assert batch["text"].dtype == batch["image_tokens"].dtype == torch.float32
    assert (batch["text"][:, 0, 0].tolist(), batch["image_tokens"][:, 0, 0].tolist()) == ([1, 0], [-1, 0])


def test_colours_are_stretched_and_put_second() -> None:
    video = np.zeros((1, 2, 4, 6, 3), np.uint8)
    video[0, 1, 2, 3, 0] = 255
    found = video_tensor(video)
    assert found.shape == (1, 3, 2, 4, 6)
    assert (found[0, 0, 1, 2, 3], found.sum()) == (1, 2 - found.numel())
