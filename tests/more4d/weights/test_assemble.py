"""A checkpoint folder out of published files, at toy size: the tests make the files from networks of known weights."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from more4d.inference.generate import model_records
from more4d.models.architectures import Architecture, STraGShape
from more4d.models.bundle import NETWORKS, Models, build, build_vism, save_network
from more4d.models.conversion import CheckpointError, convert_file, to_published
from more4d.models.lora import LowRank, merge, write_lora
from more4d.models.motion_encoder import MaskedAutoencoder
from more4d.models.strag import STraGTransformer
from more4d.models.text import build_tokenizer
from more4d.models.vae import MotionVAE, MotionVAEConfig
from more4d.pipelines import TrajectoryPipeline, ViewPipeline
from more4d.weights.assemble import Sources, assemble
from safetensors.torch import load_file, save_file
from torch import Tensor

TEXT_NAMES = {
    "embed_tokens": "token_embedding", "final_layer_norm": "norm",
    "block.0.layer.0.layer_norm": "blocks.0.norm1", "block.0.layer.1.layer_norm": "blocks.0.norm2",
    "block.0.layer.0.SelfAttention.relative_attention_bias": "blocks.0.pos_embedding.embedding",
    "block.0.layer.1.DenseReluDense.wi_0": "blocks.0.ffn.gate.0", "block.0.layer.1.DenseReluDense.wi_1": "blocks.0.ffn.fc1",
    "block.0.layer.1.DenseReluDense.wo": "blocks.0.ffn.fc2",
} | {f"block.0.layer.0.SelfAttention.{x}": f"blocks.0.attn.{x}" for x in "qkvo"}  # fmt: skip


@pytest.fixture(scope="module")
def shapes(architecture: Architecture) -> Architecture:
    """The test networks, with the published VAE's and STraG's own additions at toy size."""
    codec = architecture.motion_vae.codec.model_copy(update={"starts_as_inverse": False, "gain": 1.0})
    vae = MotionVAEConfig(codec=codec, vae={"base_dim": 4, "z_dim": 16, "num_res_blocks": 1})
    strag = STraGShape.model_validate(architecture.strag.model_dump() | {"reference_channels": 16})
    return architecture.model_copy(update={"motion_vae": vae, "strag": strag})


@pytest.fixture(scope="module")
def made(shapes: Architecture) -> Models:
    """Networks of known weights."""
    torch.manual_seed(7)
    return build(shapes, build_tokenizer(["a fox runs"], 280))


@pytest.fixture(scope="module")
def sources(made: Models, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Those networks as they would be published; the motion encoder inside an autoencoder of its own."""
    folder = tmp_path_factory.mktemp("published")
    autoencoder = MaskedAutoencoder(made.config.motion_encoder)
    autoencoder.trunk.load_state_dict(made.motion_encoder.state_dict())
    released = made.strag.state_dict(prefix="strag.") | autoencoder.state_dict(prefix="motion_encoder.")
    save_file(to_published("strag", released), folder / "strag.safetensors")
    torch.save(to_published("omnimae", autoencoder.state_dict()), folder / "omnimae.torch")
    save_file(to_published("wan_dit", made.vism.state_dict()), folder / "vism.safetensors")
    save_network(made.vae, folder / "vae.safetensors")
    convert_file("motion_vae_folder", folder / "vae.safetensors", folder / "VAE", back=True)
    torch.save(_wan_text(made.text.encoder.state_dict()), folder / "text.pth")
    torch.save(_wan_image(made.image_encoder.vision.state_dict()), folder / "image.pth")
    assert made.text.tokenizer_json
    (folder / "tokenizer.json").write_text(made.text.tokenizer_json)
    save_network(made.depth, folder / "depth.safetensors")
    return Sources(
        motion_vae=folder / "VAE", vism=folder / "vism.safetensors", text=folder / "text.pth",
        tokenizer=folder / "tokenizer.json", image_encoder=folder / "image.pth", depth=folder / "depth.safetensors",
        strag=folder / "strag.safetensors",
    )  # fmt: skip


def _wan_text(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{TEXT_NAMES[name.removesuffix('.weight')]}.weight": value for name, value in state.items()}


def _wan_image(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Wan's names of a CLIP vision transformer, its three projections fused, its tables in Wan's shapes."""
    rules = ((r"encoder\.layers\.(\d+)\.", r"transformer.\1."), ("layer_norm", "norm"), (r"self_attn\.out_proj", "attn.proj"),
             (r"mlp\.fc1", "mlp.0"), (r"mlp\.fc2", "mlp.2"), ("pre_layrnorm", "pre_norm"), ("post_layernorm", "post_norm"),
             (r"embeddings\.patch_embedding", "patch_embedding"))  # fmt: skip
    found = {
        "visual.cls_embedding": state["embeddings.class_embedding"].reshape(1, 1, -1),
        "visual.pos_embedding": state["embeddings.position_embedding.weight"][None],
    }
    for name, value in state.items():
        wans = name
        for pattern, replacement in rules:
            wans = re.sub(pattern, replacement, wans)
        if ".q_proj." in name:
            parts = [state[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            found["visual." + wans.replace("self_attn.q_proj", "attn.to_qkv")] = torch.cat(parts)
        elif "_proj." not in name.replace("out_proj", "") and not re.match(r"embeddings\.(class|position)", name):
            found[f"visual.{wans}"] = value
    return found


def same(network: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether both have the same weights."""
    one, two = network.state_dict(), other.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_every_network_comes_out_as_it_was_published(
    shapes: Architecture, made: Models, sources: Sources, tmp_path: Path
) -> None:
    licences = {name: f"licence of {name}" for name in NETWORKS}
    assemble(shapes, sources, tmp_path / "checkpoint", dtype=torch.float32, licences=licences)
    loaded = Models.load(tmp_path / "checkpoint")
    assert {record.file: record.licence for record in model_records(loaded)} == licences
    assert loaded.config == shapes
    assert [name for name in NETWORKS if not same(getattr(loaded, name), getattr(made, name))] == []
    assert torch.allclose(loaded.text.encode(["a fox"]), made.text.eval().encode(["a fox"]), atol=1e-6)


def test_the_lora_is_merged_by_its_weight(shapes: Architecture, made: Models, sources: Sources, tmp_path: Path) -> None:
    layer = "blocks.0.attn1.to_q"
    width = made.vism.get_parameter(f"{layer}.weight").shape[0]
    lora = {layer: LowRank(torch.randn(2, width), torch.randn(width, 2), alpha=1.0)}
    write_lora(lora, tmp_path / "lora.safetensors", made.vism)
    with_lora = replace(sources, vism_lora=tmp_path / "lora.safetensors")
    assemble(shapes, with_lora, tmp_path / "checkpoint", dtype=torch.float32, lora_weight=0.3)
    expected = build_vism(shapes)
    expected.load_state_dict(made.vism.state_dict())
    with torch.no_grad():
        merge(expected, lora, 0.3)
    assert same(Models.load(tmp_path / "checkpoint").vism, expected)
    assert not same(expected, made.vism)


def test_without_a_released_strag_training_starts_from_wan_control(
    shapes: Architecture, made: Models, sources: Sources, tmp_path: Path
) -> None:
    base = STraGTransformer.from_config(dict(made.strag.config) | {"in_channels": 48})
    assert isinstance(base, STraGTransformer)
    state = {name: value for name, value in base.state_dict().items() if "motion" not in name}
    save_file(to_published("wan_dit", state), tmp_path / "control.safetensors")
    start = replace(
        sources, strag=None, strag_base=tmp_path / "control.safetensors", omnimae=sources.vism.parent / "omnimae.torch"
    )
    for name in ("one", "two"):
        torch.manual_seed(len(name) + (name == "two"))
        assemble(shapes, start, tmp_path / name, dtype=torch.float32)
    strag = load_file(tmp_path / "one" / "strag.safetensors")
    assert torch.equal(strag["patch_embedding.weight"][:, :48], state["patch_embedding.weight"])
    assert not strag["patch_embedding.weight"][:, 48:].any() and not strag["blocks.0.motion1.gate"].any()
    assert strag["blocks.0.motion1.linear.weight"].any()
    loaded = [Models.load(tmp_path / name) for name in ("one", "two")]
    assert same(loaded[0].strag, loaded[1].strag)
    assert same(loaded[0].motion_encoder, made.motion_encoder)


def test_a_file_of_another_size_leaves_no_folder(shapes: Architecture, sources: Sources, tmp_path: Path) -> None:
    deeper = shapes.model_copy(update={"vism": shapes.vism.model_copy(update={"layers": 3})})
    with pytest.raises(CheckpointError, match="missing: blocks.2"):
        assemble(deeper, sources, tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []


def test_half_the_way_to_strag_is_refused(sources: Sources) -> None:
    with pytest.raises(ValueError, match="give the released STraG, or Wan-Fun Control and OmniMAE"):
        replace(sources, strag=None)


def test_videos_have_wan_s_own_vae_where_the_motion_vae_is_another(
    shapes: Architecture, made: Models, sources: Sources, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    own = MotionVAE(shapes.motion_vae)
    torch.save(to_published("wan_vae", own.vae.state_dict()), tmp_path / "Wan2.1_VAE.pth")
    with_vae = replace(sources, video_vae=tmp_path / "Wan2.1_VAE.pth")
    assemble(shapes, with_vae, tmp_path / "checkpoint", dtype=torch.float32)
    loaded = Models.load(tmp_path / "checkpoint")
    assert same(loaded.view_vae.vae, own.vae) and same(loaded.vae, made.vae)
    assert set(loaded.hashes) == {*NETWORKS, "video_vae"}
    assert ViewPipeline.from_models(loaded).vae is loaded.view_vae
    assert TrajectoryPipeline.from_models(loaded).vae is loaded.vae
    assemble(shapes, sources, tmp_path / "plain", dtype=torch.float32)
    plain = Models.load(tmp_path / "plain")
    assert plain.view_vae is plain.vae
