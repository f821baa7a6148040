"""Small networks and their published files."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from more4d.models.conversion import to_published
from more4d.models.vism import ViSMTransformer
from safetensors.torch import save_file
from torch import Tensor

SMALL = dict(
    num_attention_heads=2, attention_head_dim=12, ffn_dim=32, num_layers=2, text_dim=16, image_dim=20, image_tokens=5
)


@pytest.fixture
def vism() -> ViSMTransformer:
    torch.manual_seed(0)
    return ViSMTransformer(**SMALL).eval()


@pytest.fixture
def state(vism: ViSMTransformer) -> dict[str, Tensor]:
    """The network's weights under Wan's names."""
    return to_published("wan_dit", vism.state_dict())


@pytest.fixture
def empty() -> ViSMTransformer:
    """The same network without weights."""
    with torch.device("meta"):
        return ViSMTransformer(**SMALL).eval()


@pytest.fixture
def file(state: dict[str, Tensor], tmp_path: Path) -> Path:
    """The network as one published file."""
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    return tmp_path / "diffusion_pytorch_model.safetensors"


@pytest.fixture
def shards(state: dict[str, Tensor], tmp_path: Path) -> Path:
    """A folder with the network as three published files and their index."""
    return write_shards(state, tmp_path / "shards")


def write_shards(state: Mapping[str, Tensor], folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    weight_map = {}
    for shard in range(count):
        name = f"diffusion_pytorch_model-{shard + 1:05}-of-{count:05}.safetensors"
        tensors = {key: value for i, (key, value) in enumerate(state.items()) if i % count == shard}
        save_file(tensors, folder / name)
        weight_map |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    return folder
