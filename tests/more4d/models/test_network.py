from pathlib import Path

import pytest
import torch
from more4d.models.bundle import Models
from more4d.models.depth import TINY, DepthConfig, DepthNetwork
from more4d.models.network import Network
from pydantic import ValidationError

PARTS = ("vae", "text", "image_encoder", "motion_encoder", "depth")


@pytest.mark.parametrize("name", PARTS)
def test_what_was_saved_as_a_component_is_loaded_exactly(models: Models, name: str, tmp_path: Path) -> None:
    part: Network = getattr(models, name)
    part.save_pretrained(tmp_path)
    again = type(part).from_pretrained(tmp_path)
    mine, theirs = part.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    buffers = dict(again.named_buffers())
    assert all(torch.equal(value, buffers[key]) for key, value in part.named_buffers())
    assert again.config == part.config
    assert not again.training


def test_a_network_is_made_from_its_config_or_from_what_diffusers_stored() -> None:
    network = DepthNetwork.from_config(TINY)
    assert network.config is TINY
    stored = dict(network._internal_dict)
    assert DepthNetwork.from_config(stored).config == TINY
    assert DepthNetwork(TINY.model_dump()).config == TINY


def test_a_config_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="unknown"):
        DepthNetwork(TINY.model_dump() | {"unknown": 1})
    with pytest.raises(ValidationError, match="must be multiples"):
        DepthNetwork(DepthConfig.model_construct(height=60, width=96, channels=(8, 8, 8)).model_dump())


def test_nothing_is_added_to_the_state_dict(models: Models) -> None:
    assert all(key.split(".")[0] in dict(models.depth.named_children()) for key in models.depth.state_dict())
