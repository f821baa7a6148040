import json
from pathlib import Path
from typing import Any

import pytest
import torch
from more4d.doctor.estimate import TransformerWork, network_sizes, predict, transformer_work, vae_cost
from more4d.doctor.trace import trace, without_numbers
from more4d.models.architectures import ARCHITECTURES, TINY
from more4d.models.strag import STraGTransformer
from more4d.models.vae import MotionVAE
from more4d.models.vism import ViSMTransformer
from torch.nn.attention import SDPBackend, sdpa_kernel

KEYS = Path(__file__).parents[2] / "parity" / "keys"
FRAMES, ROWS, COLUMNS = 4, 24, 32
WORK = TransformerWork(
    tokens=FRAMES * ROWS // 2 * COLUMNS // 2, width=128, ffn=512, blocks=2, text_tokens=24, text_width=64,
    image_tokens=5, image_width=48, in_channels=36,
)  # fmt: skip


def _arguments(work: TransformerWork) -> dict[str, torch.Tensor]:
    return {
        "hidden_states": torch.randn(1, work.in_channels, FRAMES, ROWS, COLUMNS),
        "timestep": torch.zeros(1),
        "encoder_hidden_states": torch.randn(1, work.text_tokens, work.text_width),
        "encoder_hidden_states_image": torch.randn(1, work.image_tokens, work.image_width),
    }


def _options(work: TransformerWork) -> dict[str, Any]:
    return {
        "num_attention_heads": 4, "attention_head_dim": work.width // 4, "ffn_dim": work.ffn,
        "num_layers": work.blocks, "text_dim": work.text_width, "image_dim": work.image_width,
        "image_tokens": work.image_tokens,
    }  # fmt: skip


def test_the_formula_counts_the_operations_of_the_views_transformer_within_two_percent() -> None:
    network, arguments = ViSMTransformer(**_options(WORK)).eval(), _arguments(WORK)
    with sdpa_kernel(SDPBackend.MATH):
        counted = trace(lambda: network(**arguments)).flops
    assert counted == pytest.approx(WORK.flops, rel=0.02)


def test_the_formula_counts_reference_tokens_too() -> None:
    frame = ROWS // 2 * COLUMNS // 2
    work = TransformerWork(**(vars(WORK) | {"in_channels": 64, "reference_tokens": frame}))
    network, arguments = STraGTransformer(**_options(work), motion_dim=8).eval(), _arguments(work)
    with sdpa_kernel(SDPBackend.MATH):
        counted = trace(lambda: network(**arguments, reference=torch.randn(1, 16, ROWS, COLUMNS))).flops
    assert counted == pytest.approx(work.flops, rel=0.02)


@pytest.mark.parametrize("ffn", [64, 512, 1024])
@pytest.mark.parametrize(("dtype", "number_bytes"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_the_formula_holds_what_a_forward_holds_and_not_a_third_more(
    ffn: int, dtype: torch.dtype, number_bytes: int
) -> None:
    work = TransformerWork(**(vars(WORK) | {"ffn": ffn, "in_channels": 64}))
    with without_numbers(dtype):
        network = STraGTransformer(**_options(work), motion_dim=8, motion_grid=(2, 2)).eval()
        arguments = _arguments(work)
        modulation = network.precompute_modulation(torch.randn(1, 4, 8), ROWS // 2, COLUMNS // 2)
        held = trace(lambda: network(**arguments, modulation=modulation)).peak_bytes
    assert 0.95 < work.activation_bytes(number_bytes) / held < 1.33


def test_a_trace_without_numbers_is_that_of_a_run_with_them(architecture: Any) -> None:
    costs = []
    for context in (without_numbers(), torch.no_grad()):
        with context:
            vae = MotionVAE(architecture.motion_vae).eval()
            latent = torch.zeros(1, 16, 2, 4, 6)
            costs.append(trace(lambda vae=vae, latent=latent: vae.decode_motion(latent)))
    assert costs[0].flops == costs[1].flops > 0
    assert costs[0].peak_bytes == pytest.approx(costs[1].peak_bytes, rel=0.01)


def _published(name: str) -> int:
    return json.loads((KEYS / f"{name}.json").read_text())["parameters"]


@pytest.mark.parametrize("size", ["1.3b", "14b"])
def test_parameters_are_those_of_the_published_networks(size: str) -> None:
    sizes = network_sizes(ARCHITECTURES[f"wan-{size}"])
    assert sizes["strag"].parameters == _published(f"strag_{size}") - _published("omnimae_vitb")
    assert sizes["vism"].parameters == _published(f"wan_fun_inp_{size}")
    low, high = {"1.3b": (1.4e9, 1.8e9), "14b": (16e9, 17.1e9)}[size]
    assert low < sizes["vism"].parameters < sizes["strag"].parameters < high
    assert 5.6e9 < sizes["text"].parameters < 5.8e9


def test_tokens_are_those_of_the_published_resolution() -> None:
    work = transformer_work(ARCHITECTURES["wan-14b"], "trajectories")
    assert (work.tokens, work.reference_tokens) == (9568, 736)
    assert transformer_work(ARCHITECTURES["wan-14b"], "views").reference_tokens == 0


def test_less_memory_takes_a_slower_offload_and_too_little_takes_none() -> None:
    memories = (140, 30, 12, 1)
    large = TINY.model_copy(update={"strag": ARCHITECTURES["wan-14b"].strag, "text": ARCHITECTURES["wan-14b"].text})
    found = [predict(large, "trajectories", memory=m * 10**9, rate=1e12, number_bytes=2) for m in memories]
    peaks = list(found[0].peak_bytes.values())
    assert peaks == sorted(peaks, reverse=True)
    assert [p.offload for p in found][0] == "none" and found[-1].offload is None
    order = ["none", "model", "group", "sequential", None]
    chosen = [order.index(p.offload) for p in found]
    assert chosen == sorted(chosen) and len(set(chosen)) >= 3


def test_time_is_work_by_rate_and_guidance_doubles_the_sampling() -> None:
    once = predict(TINY, "views", memory=10**9, rate=1e9, number_bytes=4)
    generation = TINY.generation.model_copy(update={"guidance": 6.0})
    guided = TINY.model_copy(update={"generation": generation})
    twice = predict(guided, "views", memory=10**9, rate=2e9, number_bytes=4)
    assert once.seconds == once.flops / 1e9 and twice.seconds == twice.flops / 2e9
    encoders = 2 * (network_sizes(TINY)["text"].parameters - TINY.text.vocabulary * TINY.text.dim) * 24
    assert twice.flops - once.flops == TINY.generation.steps * once.forward_flops + encoders
    with pytest.raises(ValueError, match="rate=0"):
        predict(TINY, "views", memory=10**9, rate=0, number_bytes=4)


def test_decoding_motion_costs_more_than_decoding_a_video() -> None:
    cost = vae_cost(TINY, 4)
    assert cost["motion"].flops > cost["decode"].flops > 0
