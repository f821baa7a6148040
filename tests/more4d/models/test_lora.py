import json
from pathlib import Path
from typing import Any

import pytest
import torch
from more4d.models.conversion import CheckpointError
from more4d.models.lora import (
    LoRASettings,
    LowRank,
    adapter_changes,
    adapter_of,
    add_adapter,
    kohya_names,
    load_adapter,
    merge,
    read_lora,
    unmerge,
    without_adapter,
    write_lora,
)
from more4d.models.strag import STraGTransformer
from more4d.models.vism import ViSMTransformer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

SHAPE: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 2, "text_dim": 20, "image_dim": 16,
    "image_tokens": 5,
}  # fmt: skip
KEYS = Path(__file__).parents[2] / "parity" / "keys"
QUERY = "lora_unet__blocks_0_self_attn_q"


def vism() -> ViSMTransformer:
    """A small random ViSM."""
    torch.manual_seed(0)
    return ViSMTransformer(**SHAPE)


@torch.no_grad()
def output(network: nn.Module) -> Tensor:
    """What the network makes of fixed inputs."""
    generator = torch.Generator().manual_seed(1)
    shapes = (2, 36, 2, 4, 6), (2, 6, 20), (2, 5, 16)
    hidden, text, image = (torch.randn(*shape, generator=generator) for shape in shapes)
    return network(hidden, torch.tensor([20.0, 900.0]), text, image)


def changes(network: ViSMTransformer, *, rank: int = 3, alpha: float = 6.0) -> dict[str, LowRank]:
    """Random changes of every layer; the second block's query has a rank and an alpha of its own."""
    generator = torch.Generator().manual_seed(2)
    lora: dict[str, LowRank] = {}
    for name in kohya_names(network).values():
        own = (2, 1.5) if name == "blocks.1.attn1.to_q" else (rank, alpha)
        outputs, inputs = network.get_submodule(name).weight.shape  # type: ignore[union-attr, misc]
        down = torch.randn(own[0], inputs, generator=generator) / inputs**0.5
        lora[name] = LowRank(down, torch.randn(outputs, own[0], generator=generator) / 4, own[1])
    return lora


def stored(tmp_path: Path, **replaced: Tensor | None) -> Path:
    """A file for one layer of `vism`, with some of its tensors replaced, added or (None) left out."""
    tensors: dict[str, Tensor | None] = {
        f"{QUERY}.lora_down.weight": torch.ones(4, 24), f"{QUERY}.lora_up.weight": torch.ones(24, 4),
        f"{QUERY}.alpha": torch.tensor(2.0),
    }  # fmt: skip
    file = tmp_path / "lora.safetensors"
    save_file({key: value for key, value in (tensors | replaced).items() if value is not None}, file)
    return file


@pytest.mark.parametrize(
    ("size", "shape"),
    [("1.3b", {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}), ("14b", {})],
)
def test_every_linear_layer_of_the_published_network_has_its_kohya_name(size: str, shape: dict[str, Any]) -> None:
    with torch.device("meta"):
        network = ViSMTransformer(**shape)
    listed = json.loads((KEYS / f"wan_fun_inp_{size}.json").read_text())["keys"]
    linears = {key.removesuffix(".weight"): sizes for key, sizes in listed.items() if len(sizes) == 2}
    names = kohya_names(network)
    assert set(names) == {"lora_unet__" + name.replace(".", "_") for name in linears}
    for name, sizes in linears.items():
        layer = network.get_submodule(names["lora_unet__" + name.replace(".", "_")])
        assert isinstance(layer, nn.Linear) and list(layer.weight.shape) == sizes
    assert names[QUERY] == "blocks.0.attn1.to_q"
    assert names["lora_unet__blocks_29_cross_attn_k_img"] == "blocks.29.attn2.add_k_proj"


def test_the_motion_layers_of_strag_are_left_alone() -> None:
    network = STraGTransformer(**SHAPE, motion_dim=8, motion_grid=(4, 4))
    names = kohya_names(network)
    assert set(names) == set(kohya_names(vism()))
    add_adapter(network, LoRASettings(rank=2))
    assert set(adapter_changes(network)) == set(names.values()) and kohya_names(network) == names
    assert not any("motion" in name for name, p in network.named_parameters() if p.requires_grad)


def test_a_new_adapter_changes_nothing_and_is_all_that_trains() -> None:
    network, plain = vism(), output(vism())
    add_adapter(network, LoRASettings(rank=4, alpha=2))
    torch.testing.assert_close(output(network), plain)
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trainable and all(".lora_A." in name or ".lora_B." in name for name in trainable)
    assert len(trainable) == 2 * len(kohya_names(vism()))


def test_the_defaults_are_the_published_rank_and_alpha() -> None:
    with torch.device("meta"):
        network = ViSMTransformer(**SHAPE | {"num_layers": 1})
        add_adapter(network, LoRASettings())
    low = adapter_changes(network)["blocks.0.ffn.net.2"]
    assert (low.rank, low.alpha, low.shape) == (128, 64, (24, 32))


def test_an_adapter_may_leave_the_embeddings_alone() -> None:
    network = vism()
    add_adapter(network, LoRASettings(rank=2, blocks_only=True))
    adapted = set(adapter_changes(network))
    assert adapted == {name for name in kohya_names(vism()).values() if name.startswith("blocks.")}


def test_an_adapter_goes_where_it_is_told_and_what_is_trained_whole_has_none() -> None:
    network = STraGTransformer(**SHAPE, motion_dim=8, motion_grid=(4, 4))
    add_adapter(
        network, LoRASettings(rank=2, targets=("attn1", "blocks.1.ffn"), also=("motion1", "to_q", "patch_embedding"))
    )
    adapted = set(adapter_changes(network))
    assert adapted == {
        *(f"blocks.{i}.attn1.{layer}" for i in (0, 1) for layer in ("to_k", "to_v", "to_out.0")),
        "blocks.1.ffn.net.0.proj",
        "blocks.1.ffn.net.2",
    }
    trained = {name for name, p in network.named_parameters() if p.requires_grad and "lora_" not in name}
    whole = {
        name for name in trained if any(f".{part}." in f".{name}" for part in ("motion1", "to_q", "patch_embedding"))
    }
    assert trained == whole and {"patch_embedding.weight", "blocks.0.motion1.gate", "blocks.1.attn2.to_q.bias"} <= whole


@pytest.mark.parametrize("setting", ["targets", "also"])
def test_a_missing_module_is_refused_naming_those_that_are_there(setting: str) -> None:
    network = vism()
    with pytest.raises(
        ValueError, match=rf"lora.{setting} names 'attn3', which ViSMTransformer has not; .*attn1, attn2"
    ):
        add_adapter(network, LoRASettings.model_validate({"rank": 2, setting: ["attn1", "attn3"]}))
    assert all(p.requires_grad for p in network.parameters())
    with pytest.raises(ValueError, match="leaves no layer to adapt"):
        add_adapter(network, LoRASettings(targets=("to_q",), also=("to_q",)))


def test_a_state_dict_gives_the_network_without_its_adapter_and_the_merged_one() -> None:
    network = vism()
    base = {key: value.clone() for key, value in network.state_dict().items()}
    add_adapter(network, LoRASettings(rank=3, alpha=6))
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    weights, lora = network.state_dict(), adapter_of(network.state_dict(), 6.0)
    assert {name: low.alpha for name, low in lora.items()} == {
        n: low.alpha for n, low in adapter_changes(network).items()
    }
    plain = without_adapter(weights)
    assert plain.keys() == base.keys() and all(torch.equal(value, base[key]) for key, value in plain.items())
    merged = vism()
    merged.load_state_dict(without_adapter(weights, lora, 1.0))
    torch.testing.assert_close(output(merged), output(network), rtol=1e-4, atol=1e-4)
    with pytest.raises(CheckpointError, match="no adapter 'default'"):
        adapter_of(base, 6.0)


def test_peft_with_its_scale_equals_the_merged_network() -> None:
    adapted, merged = vism(), vism()
    lora = changes(merged)
    load_adapter(adapted, lora)
    merge(merged, lora, 1.0)
    assert not torch.allclose(output(merged), output(vism()), atol=0.1)
    torch.testing.assert_close(output(adapted), output(merged), rtol=1e-4, atol=1e-4)
    adapted.set_adapters("default", 0.55)
    part = vism()
    merge(part, lora)
    torch.testing.assert_close(output(adapted), output(part), rtol=1e-4, atol=1e-4)


def test_a_trained_adapter_survives_the_file(tmp_path: Path) -> None:
    network = vism()
    add_adapter(network, LoRASettings(rank=4, alpha=2))
    for name, parameter in network.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.1)
    write_lora(adapter_changes(network), tmp_path / "lora.safetensors", network)
    keys = load_file(tmp_path / "lora.safetensors")
    assert keys[f"{QUERY}.alpha"] == 2 and keys[f"{QUERY}.lora_down.weight"].shape == (4, 24)
    merged = vism()
    merge(merged, read_lora(tmp_path / "lora.safetensors", merged), 1.0)
    torch.testing.assert_close(output(merged), output(network), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", [vism(), STraGTransformer(**SHAPE, motion_dim=8, motion_grid=(4, 4))])
def test_a_file_comes_back_as_it_was_written(tmp_path: Path, network: ViSMTransformer) -> None:
    lora, file = changes(network), tmp_path / "lora.safetensors"
    write_lora(lora, file, network)
    again = read_lora(file, network)
    assert again.keys() == lora.keys()
    for name, low in lora.items():
        assert torch.equal(again[name].down, low.down) and torch.equal(again[name].up, low.up)
        assert again[name].alpha == low.alpha
    write_lora(again, tmp_path / "second.safetensors", network)
    assert (tmp_path / "second.safetensors").read_bytes() == file.read_bytes()


def test_without_an_alpha_it_is_the_rank(tmp_path: Path) -> None:
    lora = read_lora(stored(tmp_path, **{f"{QUERY}.alpha": None}), vism())
    assert lora["blocks.0.attn1.to_q"].alpha == 4
    assert (lora["blocks.0.attn1.to_q"].change(torch.zeros(1)) == 4).all()


def test_alpha_over_rank_scales_the_change(tmp_path: Path) -> None:
    network = vism()
    before = network.get_submodule("blocks.0.attn1.to_q").weight.detach().clone()  # type: ignore[union-attr, operator]
    merge(network, read_lora(stored(tmp_path), network))
    after = network.get_submodule("blocks.0.attn1.to_q").weight
    torch.testing.assert_close(after, before + 0.55 * 2 / 4 * 4)


def test_unmerging_restores_the_weights() -> None:
    network, lora = vism(), changes(vism())
    before = {key: value.clone() for key, value in network.state_dict().items()}
    merge(network, lora, 0.55)
    assert not torch.allclose(network.state_dict()["proj_out.weight"], before["proj_out.weight"], atol=1e-3)
    unmerge(network, lora, 0.55)
    for key, value in network.state_dict().items():
        assert (value - before[key]).abs().max() <= 1e-6, key


def test_merging_keeps_half_precision_and_computes_in_single() -> None:
    network, lora = vism().to(torch.bfloat16), changes(vism())
    name = "blocks.0.ffn.net.2"
    before = network.get_submodule(name).weight.float()  # type: ignore[union-attr, operator]
    merge(network, lora)
    after = network.get_submodule(name).weight
    assert after.dtype == torch.bfloat16
    assert torch.equal(after, (before + 0.55 * lora[name].change(before)).bfloat16())


def test_merging_reaches_the_weights_below_an_adapter() -> None:
    network, lora = vism(), changes(vism())
    merge(network, lora)
    below = vism()
    add_adapter(below, LoRASettings(rank=2))
    merge(below, lora)
    torch.testing.assert_close(output(below), output(network))


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"lora_unet__blocks_7_self_attn_q.alpha": torch.tensor(1.0)}, "no layer for lora_unet__blocks_7_self_attn_q"),
        ({f"{QUERY}.lora_up.weight": None}, f"is missing for {QUERY}"),
        ({f"{QUERY}.lora_up.weight": torch.ones(24, 5)}, r"self_attn_q: lora_down \[4, 24\] and lora_up \[24, 5\]"),
        (
            {f"{QUERY}.lora_up.weight": torch.ones(24, 0), f"{QUERY}.lora_down.weight": torch.ones(0, 24)},
            "share no rank",
        ),
        ({f"{QUERY}.lora_down.weight": torch.ones(4, 23)}, r"attn1.to_q has a weight of \[24, 24\].* fits \[24, 23\]"),
        ({f"{QUERY}.alpha": torch.ones(2)}, "alpha must be one number"),
        ({f"{QUERY}.diff": torch.ones(2)}, f"not {QUERY}.diff"),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_its_keys(tmp_path: Path, replaced: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_lora(stored(tmp_path, **replaced), vism())


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(stored(tmp_path).read_bytes()[:60])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        read_lora(broken, vism())
    with pytest.raises(ValueError, match="is missing"):
        read_lora(tmp_path / "none.safetensors", vism())
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(ValueError, match="none at all"):
        read_lora(tmp_path / "empty.safetensors", vism())


def test_what_does_not_fit_changes_nothing() -> None:
    network, lora = vism(), changes(vism())
    before = {key: value.clone() for key, value in network.state_dict().items()}
    lora["proj_out"] = LowRank(torch.ones(1, 24), torch.ones(7, 1), 1.0)
    with pytest.raises(ValueError, match=r"proj_out has a weight of \[64, 24\]"):
        merge(network, lora)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    with pytest.raises(ValueError, match="no adapter 'other'"):
        adapter_changes(network, name="other")
    with pytest.raises(ValueError, match="it has no layer at all"):
        load_adapter(network, {})
