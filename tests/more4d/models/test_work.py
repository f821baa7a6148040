import pytest
import torch
from more4d.models.architectures import ARCHITECTURES, Architecture
from more4d.models.bundle import build_strag, build_vism
from more4d.models.work import GenerationStep, modulation_flops, training_flops, transformer_work
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@pytest.fixture
def wide(architecture: Architecture) -> Architecture:
    """Wide enough for the products to outweigh what the formula leaves out."""
    shape = dict(heads=4, head_dim=32, ffn_dim=512, layers=2)
    generation = architecture.generation.model_copy(update={"frames": 13, "height": 128, "width": 192})
    return architecture.model_copy(
        update={
            "strag": architecture.strag.model_copy(update=shape | {"reference_channels": 16}),
            "vism": architecture.vism.model_copy(update=shape),
            "generation": generation,
        }
    )


def inputs(architecture: Architecture, step: GenerationStep) -> dict[str, Tensor]:
    work, generation = transformer_work(architecture, step), architecture.generation
    frames, rows, columns = 1 + (generation.frames - 1) // 4, generation.height // 8, generation.width // 8
    given = {
        "hidden_states": torch.randn(1, work.in_channels, frames, rows, columns),
        "timestep": torch.zeros(1),
        "encoder_hidden_states": torch.randn(1, work.text_tokens, work.text_width),
        "encoder_hidden_states_image": torch.randn(1, work.image_tokens, work.image_width),
    }
    if step == "trajectories":
        patches = architecture.motion_encoder.grid[0] * architecture.motion_encoder.grid[1]
        given["motion_features"] = torch.randn(1, patches, architecture.motion_encoder.dim)
        given["reference"] = torch.randn(1, 16, rows, columns)
    return given


def counted(network: nn.Module, given: dict[str, Tensor]) -> int:
    """Operations of a forward and a backward, counted one by one."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(**given).square().mean().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("step", ["trajectories", "views"])
def test_the_work_of_training_is_what_forward_and_backward_take(wide: Architecture, step: GenerationStep) -> None:
    network = build_strag(wide) if step == "trajectories" else build_vism(wide)
    found = training_flops(wide, step)
    assert counted(network, inputs(wide, step)) == pytest.approx(found.flops, rel=0.03)
    assert found.tokens == 4 * 96 + (96 if step == "trajectories" else 0)


def test_frozen_weights_save_a_third_of_the_products_with_weights(wide: Architecture) -> None:
    network = build_vism(wide).requires_grad_(False)
    given = inputs(wide, "views")
    # As with adapters in every layer: gradients run through all blocks, though no weight takes one.
    given["hidden_states"].requires_grad_(True)
    given["encoder_hidden_states"].requires_grad_(True)
    given["encoder_hidden_states_image"].requires_grad_(True)
    found = training_flops(wide, "views", lora=True)
    assert counted(network, given) == pytest.approx(found.flops, rel=0.03)
    assert found.flops < 0.8 * training_flops(wide, "views").flops


def test_computing_the_blocks_twice_takes_a_third_more(wide: Architecture) -> None:
    found = training_flops(wide, "trajectories")
    assert 0.3 < found.recomputed / found.flops < 1 / 3


def test_the_14b_training_step_works_on_10304_tokens() -> None:
    found = training_flops(ARCHITECTURES["wan-14b"], "trajectories")
    assert found.tokens == 10304
    # Six operations a weight and token, and the attention's own share.
    assert 6 * 14e9 * 10304 < found.flops < 1.4 * 6 * 16.4e9 * 10304


def test_the_first_token_alone_is_modulated_once() -> None:
    patch = ARCHITECTURES["wan-14b"]
    first = patch.model_copy(update={"strag": patch.strag.model_copy(update={"motion_tokens": "first"})})
    assert modulation_flops(first) == 8 * 40 * 768 * 5120 < modulation_flops(patch)
