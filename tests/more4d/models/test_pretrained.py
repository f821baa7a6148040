"""umt5 and CLIP as others publish them, at toy size: Hugging Face's folders, and Wan's own names."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from more4d.models.image_encoder import WAN_NAMES as CLIP_NAMES
from more4d.models.image_encoder import ImageEncoder, ImageEncoderConfig
from more4d.models.text import WAN_NAMES as UMT5_NAMES
from more4d.models.text import TextEncoder, TextEncoderConfig, build_tokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

PROMPTS = ["a patch moves to the left", "a dog"]
TEXT = TextEncoderConfig(vocabulary=300, dim=16, depth=2, heads=2, head_dim=6, mlp_dim=20, max_tokens=12)
IMAGE = ImageEncoderConfig(image_size=28, patch_size=14, dim=16, depth=3, heads=2, mlp_dim=24)
PICTURE = torch.linspace(0, 255, 2 * 3 * 30 * 40).reshape(2, 3, 30, 40)


@pytest.fixture(scope="module")
def umt5() -> UMT5EncoderModel:
    """A toy umt5."""
    torch.manual_seed(0)
    return UMT5EncoderModel(
        UMT5Config(vocab_size=300, d_model=16, d_kv=6, d_ff=20, num_layers=2, num_heads=2)
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def clip() -> CLIPVisionModel:
    """A toy vision transformer."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14,
        hidden_act="gelu",
    )  # fmt: skip
    return CLIPVisionModel(config).eval()


@pytest.fixture
def umt5_folder(umt5: UMT5EncoderModel, tmp_path: Path) -> Path:
    """The toy umt5 with its tokenizer, as on Hugging Face."""
    umt5.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(build_tokenizer(PROMPTS, 300))
    return tmp_path


def expected_text(umt5: UMT5EncoderModel, folder: Path) -> Tensor:
    """What transformers alone makes of the prompts."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>", eos_token="</s>"
    )
    given = tokenizer(PROMPTS, padding="max_length", max_length=12, truncation=True, return_tensors="pt")
    with torch.no_grad():
        found = umt5(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state
    return found * given["attention_mask"][..., None]


def expected_image(clip: CLIPVisionModel) -> Tensor:
    """transformers' penultimate hidden state of the picture in CLIP's normalisation."""
    seen: list[Tensor] = []
    encoder = ImageEncoder(IMAGE)
    encoder.forward = lambda pixels_B3HW: seen.append(pixels_B3HW) or pixels_B3HW  # type: ignore[method-assign]
    encoder.encode(PICTURE)
    with torch.no_grad():
        return clip(pixel_values=seen[0], output_hidden_states=True).hidden_states[-2]


def reverse(names: tuple[tuple[str, str], ...]) -> Callable[[str], str]:
    """transformers' name to Wan's, by the same table read backwards."""
    return lambda name: next(found for row in names if (found := _theirs(name, *row)) is not None)


def _theirs(name: str, pattern: str, replacement: str) -> str | None:
    groups = re.findall(r"\([^)]*\)", pattern)
    ours = re.escape(replacement)
    for number, group in enumerate(groups, start=1):
        ours = ours.replace(rf"\\{number}", group)
    if not (found := re.match(ours, name)):
        return None
    theirs = pattern.removesuffix("$").replace("\\.", ".")
    for group, value in zip(groups, found.groups(), strict=True):
        theirs = theirs.replace(group, value, 1)
    return theirs + name[found.end() :]


def test_umt5_of_hugging_face_gives_transformers_own_numbers(umt5: UMT5EncoderModel, umt5_folder: Path) -> None:
    found = TextEncoder.from_transformers(umt5_folder, max_tokens=12)
    assert found.config == TEXT
    assert not found.training and not any(p.requires_grad for p in found.parameters())
    assert torch.allclose(found.encode(PROMPTS), expected_text(umt5, umt5_folder), atol=1e-6)


@pytest.mark.parametrize("embedding", ["shared.weight", "encoder.embed_tokens.weight"])
def test_either_name_of_the_embedding_will_do(umt5: UMT5EncoderModel, umt5_folder: Path, embedding: str) -> None:
    state = {k: v.clone() for k, v in umt5.encoder.state_dict(prefix="encoder.").items()}
    state[embedding] = state.pop("encoder.embed_tokens.weight")
    save_file(state, umt5_folder / "model.safetensors", metadata={"format": "pt"})
    found = TextEncoder.from_transformers(umt5_folder, max_tokens=12)
    assert torch.allclose(found.encode(PROMPTS), expected_text(umt5, umt5_folder), atol=1e-6)


def test_a_whole_umt5_with_its_decoder_will_do_in_another_precision(umt5: UMT5EncoderModel, umt5_folder: Path) -> None:
    state = load_file(umt5_folder / "model.safetensors") | {"decoder.final_layer_norm.weight": torch.ones(16)}
    save_file(state, umt5_folder / "model.safetensors", metadata={"format": "pt"})
    found = TextEncoder.from_transformers(umt5_folder, max_tokens=12, dtype=torch.bfloat16)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.encode(PROMPTS).float(), expected_text(umt5, umt5_folder), atol=0.1)


def test_what_umt5_lacks_is_named(umt5_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no checkpoint at .*none: config\.json is missing"):
        TextEncoder.from_transformers(tmp_path / "none")
    state = load_file(umt5_folder / "model.safetensors")
    del state["encoder.final_layer_norm.weight"]
    save_file(state, umt5_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing encoder\.final_layer_norm\.weight"):
        TextEncoder.from_transformers(umt5_folder)
    (umt5_folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer .*tokenizer\.json is missing"):
        TextEncoder.from_transformers(umt5_folder)


def test_another_kind_of_t5_is_refused(umt5_folder: Path) -> None:
    config = json.loads((umt5_folder / "config.json").read_text()) | {"feed_forward_proj": "relu"}
    (umt5_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is of another architecture: feed_forward_proj='relu', not 'gated-gelu'"):
        TextEncoder.from_transformers(umt5_folder)


def test_umt5_in_wan_s_names_gives_the_same_numbers(umt5: UMT5EncoderModel, umt5_folder: Path, tmp_path: Path) -> None:
    back = reverse(UMT5_NAMES)
    torch.save({back(k): v for k, v in umt5.encoder.state_dict().items()}, tmp_path / "models_t5.pth")
    found = TextEncoder.from_wan(tmp_path / "models_t5.pth", umt5_folder / "tokenizer.json", config=TEXT)
    assert torch.allclose(found.encode(PROMPTS), expected_text(umt5, umt5_folder), atol=1e-6)


def test_wan_s_names_of_umt5_are_those_of_its_code() -> None:
    back = reverse(UMT5_NAMES)
    assert back("block.3.layer.0.SelfAttention.q.weight") == "blocks.3.attn.q.weight"
    assert back("block.3.layer.0.SelfAttention.relative_attention_bias.weight") == (
        "blocks.3.pos_embedding.embedding.weight"
    )
    assert back("block.3.layer.1.DenseReluDense.wi_0.weight") == "blocks.3.ffn.gate.0.weight"
    assert back("block.3.layer.1.DenseReluDense.wi_1.weight") == "blocks.3.ffn.fc1.weight"
    assert back("embed_tokens.weight") == "token_embedding.weight"
    assert back("final_layer_norm.weight") == "norm.weight"


def test_a_wan_file_that_does_not_fit_is_named(umt5_folder: Path, tmp_path: Path) -> None:
    torch.save({"token_embedding.weight": torch.zeros(2, 2), "more": torch.zeros(1)}, tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match=r"wrong\.pth does not fit UMT5Stack: missing block\.0") as error:
        TextEncoder.from_wan(tmp_path / "wrong.pth", umt5_folder / "tokenizer.json", config=TEXT)
    assert len(str(error.value)) < 1000


def test_clip_of_hugging_face_gives_transformers_own_penultimate_tokens(clip: CLIPVisionModel, tmp_path: Path) -> None:
    clip.save_pretrained(tmp_path)
    found = ImageEncoder.from_transformers(tmp_path)
    assert found.config == IMAGE
    assert torch.allclose(found.encode(PICTURE), expected_image(clip), atol=1e-6)


def test_clip_with_its_usual_prefix_will_do(clip: CLIPVisionModel, tmp_path: Path) -> None:
    clip.save_pretrained(tmp_path)
    state = {f"vision_model.{k}": v for k, v in load_file(tmp_path / "model.safetensors").items()}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert torch.allclose(ImageEncoder.from_transformers(tmp_path).encode(PICTURE), expected_image(clip), atol=1e-6)


def test_the_vision_half_of_a_whole_clip_will_do(clip: CLIPVisionModel, tmp_path: Path) -> None:
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = CLIPConfig(vision_config=clip.config.to_dict(), text_config=small | {"vocab_size": 50})
    model = CLIPModel(whole)
    vision = {k.removeprefix("vision_model."): v for k, v in model.state_dict().items() if "vision_model." in k}
    model.vision_model.load_state_dict({k: clip.state_dict()[k] for k in vision})
    model.save_pretrained(tmp_path)
    assert torch.allclose(ImageEncoder.from_transformers(tmp_path).encode(PICTURE), expected_image(clip), atol=1e-6)


def test_clip_in_wan_s_names_gives_the_same_tokens_and_its_text_half_is_left(
    clip: CLIPVisionModel, tmp_path: Path
) -> None:
    back = reverse(CLIP_NAMES)
    wan = {back(k): v for k, v in clip.state_dict().items()}
    for layer in range(3):
        for kind in ("weight", "bias"):
            parts = [wan.pop(f"visual.transformer.{layer}.attn.to_{p}.{kind}") for p in "qkv"]
            wan[f"visual.transformer.{layer}.attn.to_qkv.{kind}"] = torch.cat(parts)
    wan["visual.cls_embedding"] = wan["visual.cls_embedding"][None, None]
    wan["visual.pos_embedding"] = wan["visual.pos_embedding"][None]
    wan |= {"visual.head": torch.zeros(16, 8), "textual.norm.weight": torch.zeros(4), "log_scale": torch.zeros(())}
    torch.save(wan, tmp_path / "models_clip.pth")
    found = ImageEncoder.from_wan(tmp_path / "models_clip.pth", config=IMAGE)
    assert torch.allclose(found.encode(PICTURE), expected_image(clip), atol=1e-6)
    found.save_pretrained(tmp_path / "ours")
    assert torch.equal(ImageEncoder.from_pretrained(tmp_path / "ours").encode(PICTURE), found.encode(PICTURE))
