from pathlib import Path
from typing import cast

import pytest
import torch
from more4d.models.bundle import Models, build_strag, load_exactly
from more4d.models.lora import LoRASettings, merge, read_lora
from more4d.models.strag import STraGTransformer
from more4d.training import loop
from more4d.training.adapters import make_trainable, write_trained
from more4d.training.draws import Draws
from more4d.training.flow import FlowSettings
from more4d.training.latents import cached_conditions
from more4d.training.settings import TrainSettings
from more4d.training.strag import STraGObjective
from safetensors.torch import save_file
from torch import Tensor

SETTINGS = TrainSettings(steps=5, batch_size=2, learning_rate=1e-2, warmup_steps=1, log_every=1, checkpoint_every=5)
LORA = LoRASettings(rank=2, alpha=4, also=("motion1", "motion2", "motion_adapter"))


class Noise:
    """Two samples of nothing but noise."""

    size = 2

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Latents [B, 16, 2, 4, 6] and conditions, different for each sample."""
        shapes = {f"{name}_latent": (16, 2, 4, 6) for name in ("motion", "image", "depth")}
        shapes |= {"text": (8, 24), "image_tokens": (5, 24), "motion_features": (4, 24)}
        streams = [torch.Generator().manual_seed(int(i)) for i in indices]
        return {key: torch.stack([torch.randn(s, generator=g) for g in streams]) for key, s in shapes.items()}


def objective_of(models: Models, lora: LoRASettings | None) -> STraGObjective:
    """The objective of a random STraG."""
    torch.manual_seed(0)
    strag = build_strag(models.config)
    make_trainable(strag, lora, seed=3)
    return STraGObjective(strag, strag, models.vae, Noise(), cached_conditions, FlowSettings(prediction="sample"))


def train(objective: STraGObjective, steps: int = 30) -> list[float]:
    """The losses of a few steps."""
    optimizer = torch.optim.AdamW([p for p in objective.module.parameters() if p.requires_grad], lr=1e-2)
    found = []
    for step in range(steps):
        loss = objective.loss(objective.batch(torch.arange(2)), Draws(0, step, range(2)))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found


def test_only_the_adapter_and_what_is_named_beside_it_are_trained_and_it_learns(models: Models) -> None:
    objective = objective_of(models, LORA)
    before = {name: value.clone() for name, value in objective.module.state_dict().items()}
    losses = train(objective)
    moved = {name for name, value in objective.module.state_dict().items() if not torch.equal(value, before[name])}
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert any("lora_B" in name for name in moved) and any("motion1" in name for name in moved)
    assert all("lora_" in name or "motion" in name for name in moved)


def test_a_new_adapter_is_the_seeds_and_leaves_the_global_generator_alone(models: Models) -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        strag = build_strag(models.config)
        state = torch.get_rng_state()
        make_trainable(strag, LORA, seed=3)
        assert torch.equal(torch.get_rng_state(), state)
        drawn.append(strag.state_dict())
        torch.manual_seed(5)
    assert all(torch.equal(value, drawn[1][name]) for name, value in drawn[0].items())


@torch.no_grad()
def loss_of(objective: STraGObjective) -> float:
    """The loss of one step."""
    return float(objective.loss(objective.batch(torch.arange(2)), Draws(1, 0, range(2)))["loss"])


@pytest.mark.parametrize("lora", [LORA, None])
def test_what_is_written_is_what_was_trained(models: Models, tmp_path: Path, lora: LoRASettings | None) -> None:
    objective = objective_of(models, lora)
    strag = cast(STraGTransformer, objective.module)
    base = {key: value.clone() for key, value in objective_of(models, None).module.state_dict().items()}
    save_file(base, tmp_path / "base.safetensors")
    result = loop.train(objective, SETTINGS, seed=0, work=tmp_path / "work")
    write_trained(strag, result, tmp_path / "strag.safetensors", lora, base=tmp_path / "base.safetensors")
    result.load_into(strag)
    merged = objective_of(models, None)
    load_exactly(merged.module, tmp_path / "strag.safetensors")
    assert loss_of(merged) == pytest.approx(loss_of(objective), rel=1e-4)
    adapter = tmp_path / "strag_lora.safetensors"
    assert adapter.is_file() == (lora is not None)
    if lora is not None:
        network = cast(STraGTransformer, merged.module)
        merge(network, read_lora(adapter, network), -lora.merge_weight)
        for key, value in network.state_dict().items():
            assert "motion" in key or torch.allclose(value, base[key], atol=1e-5)


def test_a_missing_module_is_refused_before_anything_is_frozen(models: Models) -> None:
    strag = build_strag(models.config)
    with pytest.raises(ValueError, match="names 'attention', which STraGTransformer has not; there are"):
        make_trainable(strag, LoRASettings(targets=("attention",)), seed=0)
    assert all(p.requires_grad for p in strag.parameters())
