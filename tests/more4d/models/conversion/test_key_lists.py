"""The key lists of tests/parity/keys, which hold every name and shape of the published checkpoints, against our networks."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from more4d.models.architectures import WAN_1_3B, WAN_14B, TransformerShape
from more4d.models.conversion import LAYOUTS, rename, to_ours, to_published
from more4d.models.lora import kohya_names
from more4d.models.motion_encoder import OMNIMAE_VITB, MaskedAutoencoder
from more4d.models.strag import STraGTransformer
from more4d.models.trajectory_codec import TrajectoryCodecConfig, TrajectoryDecoder, TrajectoryEncoder
from more4d.models.vae import MotionVAE, MotionVAEConfig
from more4d.models.vism import ViSMTransformer
from torch import Tensor, nn

KEYS = Path(__file__).parents[3] / "parity" / "keys"
Shapes = dict[str, tuple[int, ...]]


def published(name: str) -> dict[str, Tensor]:
    """A published state on the meta device."""
    shapes = json.loads((KEYS / f"{name}.json").read_text())["keys"]
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def transformer(kind: type[nn.Module], size: TransformerShape, **config: int) -> nn.Module:
    return kind(
        num_attention_heads=size.heads, attention_head_dim=size.head_dim, ffn_dim=size.ffn_dim, num_layers=size.layers,
        **config,
    )  # fmt: skip


def network_of(name: str) -> nn.Module:
    """Our network, on the meta device, that a key list is of."""
    size = (WAN_14B if name.endswith("14b") else WAN_1_3B).strag
    with torch.device("meta"):
        match name.removesuffix("_14b").removesuffix("_1.3b"):
            case "strag":
                parts = {
                    "strag": transformer(STraGTransformer, size),
                    "motion_encoder": MaskedAutoencoder(OMNIMAE_VITB),
                }
                return nn.ModuleDict(parts)
            case "wan_fun_control":
                return transformer(STraGTransformer, size, in_channels=48)
            case "wan_fun_inp":
                return transformer(ViSMTransformer, size)
            case "wan_vae":
                return AutoencoderKLWan()
            case "omnimae_vitb":
                return MaskedAutoencoder(OMNIMAE_VITB)
            case "trajectory_encoder":
                return TrajectoryEncoder(TrajectoryCodecConfig())
            case _:
                return TrajectoryDecoder(TrajectoryCodecConfig())


def shapes(state: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(value.shape) for name, value in state.items()}


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("strag_14b", "strag"),
        ("strag_1.3b", "strag"),
        ("wan_fun_control_14b", "wan_dit"),
        ("wan_fun_control_1.3b", "wan_dit"),
        ("wan_fun_inp_14b", "wan_dit"),
        ("wan_fun_inp_1.3b", "wan_dit"),
        ("wan_vae", "wan_vae"),
        ("omnimae_vitb", "omnimae"),
        ("trajectory_encoder", "trajectory_encoder"),
        ("trajectory_decoder", "trajectory_decoder"),
    ],
)
def test_every_key_and_shape_is_exactly_one_of_ours_and_back(name: str, layout: str) -> None:
    theirs, ours = published(name), network_of(name).state_dict()
    if name.startswith("wan_fun_control"):
        # The base has no motion guidance: that is what STraG adds to it.
        ours = {key: value for key, value in ours.items() if "motion" not in key}
    assert shapes(to_ours(layout, theirs)) == shapes(ours)
    assert shapes(to_published(layout, ours)) == shapes(theirs)
    assert len(set(rename(layout, theirs).values())) == len(theirs)


def test_every_key_list_has_a_network() -> None:
    listed = {path.stem for path in KEYS.glob("*.json")}
    sized = {f"{name}_{size}" for name in ("strag", "wan_fun_control", "wan_fun_inp") for size in ("14b", "1.3b")}
    assert listed == sized | {"wan_vae", "omnimae_vitb", "trajectory_encoder", "trajectory_decoder"}


def test_the_released_vae_folder_is_a_motion_vae() -> None:
    prefixes = {
        "trajectory_encoder": "encoder_prompt.",
        "trajectory_decoder": "decoder_prompt.",
        "wan_vae": "vae.model.",
    }
    theirs = {prefix + key: value for name, prefix in prefixes.items() for key, value in published(name).items()}
    with torch.device("meta"):
        ours = MotionVAE(MotionVAEConfig()).state_dict()
    assert shapes(to_ours("motion_vae_folder", theirs)) == shapes(ours)
    assert shapes(to_published("motion_vae_folder", ours)) == shapes(theirs)


def test_no_key_is_claimed_by_two_rows() -> None:
    for name, layout in (("strag_14b", "strag"), ("wan_vae", "wan_vae"), ("omnimae_vitb", "omnimae")):
        theirs = published(name)
        for keys, back in ((theirs, False), (to_ours(layout, theirs), True)):
            readers = LAYOUTS[layout].readers[back]
            claims = {key: sum(pattern.fullmatch(key) is not None for pattern, _ in readers) for key in keys}
            assert set(claims.values()) == {1}


def test_the_vae_is_named_as_diffusers_converter_names_it() -> None:
    theirs = published("wan_vae")
    expected = convert_wan_vae_to_diffusers({key: key for key in theirs})
    assert {new: old for old, new in rename("wan_vae", theirs).items()} == expected


@pytest.mark.parametrize(("layers", "levels"), [(1, 4), (2, 3), (3, 2), (2, 1)])
def test_vaes_of_other_depths_go_to_published_names_and_back(layers: int, levels: int) -> None:
    config = {"base_dim": 4, "num_res_blocks": layers, "dim_mult": [1, 2, 4, 4][:levels]}
    with torch.device("meta"):
        ours = AutoencoderKLWan(**config, temperal_downsample=[False, True, True][: levels - 1]).state_dict()
    theirs = to_published("wan_vae", ours)
    last = (layers + 2) * (levels - 1) + layers
    assert f"decoder.upsamples.{last}.residual.6.weight" in theirs
    assert f"decoder.upsamples.{last + 1}.residual.6.weight" not in theirs
    assert shapes(to_ours("wan_vae", theirs)) == shapes(ours)


def test_a_wrapped_vae_has_the_same_names() -> None:
    theirs = published("wan_vae")
    wrapped = {f"model.{key}": value for key, value in theirs.items()}
    assert shapes(to_ours("wan_vae", wrapped)) == shapes(to_ours("wan_vae", theirs))


def test_the_lora_layout_names_the_layers_that_adapters_of_vism_have() -> None:
    vism = network_of("wan_fun_inp_1.3b")
    assert isinstance(vism, ViSMTransformer)
    names = kohya_names(vism)
    ours = rename("vism_lora", [f"{kohya}.lora_up.weight" for kohya in names])
    assert {old.partition(".")[0]: new.removesuffix(".lora_B.weight") for old, new in ours.items()} == names
    assert rename("vism_lora", ours.values(), back=True) == {new: old for old, new in ours.items()}
