"""Claims about more4d.curation.transnet."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from more4d.curation.transnet import HEIGHT, WIDTH, TransNetV2, boundary_probabilities, load_transnet
from numpy.typing import NDArray

WEIGHTS = Path(".cache/packaged/models/transnetv2.pth")


def _frames(count: int) -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(0).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8))


def test_the_published_file_fits_name_by_name() -> None:
    published = torch.load(WEIGHTS, weights_only=True)
    ours = TransNetV2().state_dict()
    assert {name: value.shape for name, value in published.items()} == {k: v.shape for k, v in ours.items()}


def test_logits_are_one_a_frame_and_repeat() -> None:
    torch.manual_seed(0)
    network = TransNetV2().eval()
    frames = torch.from_numpy(np.stack(_frames(10)))[None]
    with torch.inference_mode():
        first, second = network(frames), network(frames)
    assert first.shape == (1, 10)
    assert torch.equal(first, second)


@pytest.mark.parametrize("count", [0, 1, 49, 50, 51, 76, 130])
def test_every_frame_gets_an_answer_whatever_the_length(count: int) -> None:
    class Counts(TransNetV2):
        def forward(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
            assert frames_BTHWC.shape == (1, 100, HEIGHT, WIDTH, 3)
            return frames_BTHWC[..., 0, 0, 0].float()

    frames = [np.full((HEIGHT, WIDTH, 3), n, np.uint8) for n in range(count)]
    expected = torch.sigmoid(torch.arange(count).float()).tolist()
    assert list(boundary_probabilities(Counts(), frames)) == expected


def test_a_file_of_other_weights_or_with_code_is_refused(tmp_path: Path) -> None:
    torch.save({"fc1.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not hold TransNetV2's weights"):
        load_transnet(tmp_path / "other.pth")
    (tmp_path / "code.pth").write_bytes(pickle.dumps(print))
    with pytest.raises(ValueError, match="no file of weights"):
        load_transnet(tmp_path / "code.pth")
