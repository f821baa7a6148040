from typing import Any

import pytest
import torch
from more4d.training.distributed.world import World
from more4d.training.draws import Draws
from more4d.training.objective import Objective
from more4d.training.requirements import require_possible
from more4d.training.settings import TrainSettings
from pydantic import ValidationError
from torch import Tensor, nn

ALONE = World(0, 1, torch.device("cpu"))
FOUR = World(0, 4, torch.device("cpu"))


class Line(Objective):
    """Eight samples and one layer."""

    def __init__(self, names: list[str] | None = None) -> None:
        self.module, self.size = nn.Linear(2, 1), 8
        self.names = names or list("abcdefgh")

    @property
    def ids(self) -> list[str]:
        """Their names."""
        return self.names

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def loss(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """Nothing."""
        return {}


def settings(**changes: Any) -> TrainSettings:
    """Settings that can be, with changes."""
    return TrainSettings.model_validate({"steps": 20, "batch_size": 4, "learning_rate": 0.01} | changes)


@pytest.mark.parametrize(
    ("changes", "world", "told"),
    [
        ({"batch_size": 6}, FOUR, r"batch_size=6 does not divide among 4 ranks .* multiple of 4"),
        ({"accumulate": 3}, ALONE, r"batch_size=4 does not divide .* accumulate=3 .* multiple of 3"),
        ({"strategy": "single"}, FOUR, "strategy=single for 4 ranks: set it to auto"),
        ({"strategy": "fsdp2", "optimizer": "muon"}, FOUR, "optimizer=muon needs whole matrices, strategy=fsdp2"),
        ({"strategy": "zero2", "guard": {"skip_sigmas": 6}}, FOUR, "guard.skip_sigmas .* use ddp or fsdp2"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_what_to_change(
    changes: dict[str, Any], world: World, told: str
) -> None:
    require_possible(Line(), settings(), world)
    with pytest.raises(ValueError, match=told):
        require_possible(Line(), settings(**changes), world)


def test_two_samples_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="1 samples have an id that another has too, such as 'a'"):
        require_possible(Line(list("aacdefgh")), settings(), ALONE)


def test_a_bucket_for_each_sample_is_asked_for() -> None:
    with pytest.raises(ValueError, match="8 samples came with 8 buckets and 3 ids"):
        require_possible(Line(["a", "b", "c"]), settings(), ALONE)


def test_a_frozen_module_is_refused() -> None:
    objective = Line()
    objective.module.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter is trained"):
        require_possible(objective, settings(), ALONE)


@pytest.mark.parametrize("rate", [1e3, 0.0, -1.0])
def test_a_learning_rate_of_no_use_is_refused(rate: float) -> None:
    with pytest.raises(ValidationError, match="learning_rate"):
        settings(learning_rate=rate)


def test_half_a_clip_schedule_is_refused() -> None:
    with pytest.raises(ValidationError, match="go together"):
        settings(clip_start_factor=5.0)
