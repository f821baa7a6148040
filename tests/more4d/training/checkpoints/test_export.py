import weakref
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from more4d.models.conversion import CheckpointError, load_published, to_published
from more4d.models.lora import LoRASettings, adapter_changes, read_lora
from more4d.models.trajectory_codec import TrajectoryCodecConfig
from more4d.models.vae import MotionVAE, MotionVAEConfig
from more4d.models.vism import ViSMTransformer
from more4d.training.adapters import make_trainable
from more4d.training.checkpoints import Checkpoint, CheckpointSettings, CheckpointStore, Ranks, export_tensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.more4d.training.checkpoints.groups import cut, same, together

SMALL = dict(
    num_attention_heads=2, attention_head_dim=12, ffn_dim=32, num_layers=2, text_dim=16, image_dim=20, image_tokens=5
)
VAE = MotionVAEConfig(codec=TrajectoryCodecConfig(width=8, groups=4), vae={"base_dim": 4, "num_res_blocks": 1})
PARTS = {
    "trajectory_encoder.": "trajectory_encoder.",
    "trajectory_decoder.": "trajectory_decoder.",
    "decoder.": "vae.decoder.",
    "post_quant_conv.": "vae.post_quant_conv.",
}


def saved(folder: Path, model: Mapping[str, Tensor], ema: Mapping[str, Tensor]) -> Checkpoint:
    """A checkpoint that three ranks wrote."""
    tensors = {f"model/{k}": v for k, v in model.items()} | {f"ema/{k}": v for k, v in ema.items()}

    def write(ranks: Ranks) -> None:
        CheckpointStore(folder, CheckpointSettings(), ranks).save(5, cut(tensors, 3)[ranks.rank], {})

    together(3, write)
    return Checkpoint(folder / "step-00000005")


@pytest.fixture
def vism() -> ViSMTransformer:
    torch.manual_seed(0)
    return ViSMTransformer(**SMALL).eval()


@pytest.fixture
def trained(vism: ViSMTransformer, tmp_path: Path) -> Checkpoint:
    """A ViSM's training: the average is half the weights."""
    state = vism.state_dict()
    return saved(tmp_path / "run", state, {name: value / 2 for name, value in state.items()})


def test_the_weights_and_their_average_come_out_exactly(
    trained: Checkpoint, vism: ViSMTransformer, tmp_path: Path
) -> None:
    assert export_tensors(trained, tmp_path / "model.safetensors", weights="model") == []
    assert same(load_file(tmp_path / "model.safetensors"), vism.state_dict())
    export_tensors(trained, tmp_path / "ema.safetensors", dtype=torch.bfloat16)
    halves = {name: (value / 2).bfloat16() for name, value in vism.state_dict().items()}
    assert same(load_file(tmp_path / "ema.safetensors"), halves)


@pytest.mark.parametrize("name", ["published.safetensors", "published.pth"])
def test_the_published_layout_loads_as_what_was_trained(
    trained: Checkpoint, vism: ViSMTransformer, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "out" / name
    export_tensors(trained, file, weights="model", layout="wan_dit")
    with torch.device("meta"):
        empty = ViSMTransformer(**SMALL)
    assert same(load_published(empty, file, "wan_dit").state_dict(), vism.state_dict())
    assert [p.name for p in file.parent.iterdir()] == [name]


def test_a_published_file_has_the_published_names(trained: Checkpoint, vism: ViSMTransformer, tmp_path: Path) -> None:
    export_tensors(trained, tmp_path / "x.safetensors", weights="model", layout="wan_dit")
    assert same(load_file(tmp_path / "x.safetensors"), to_published("wan_dit", vism.state_dict()))


def test_what_was_not_trained_comes_from_the_rest(tmp_path: Path) -> None:
    """A motion VAE's training holds the codec and the decoder; the encoder was frozen."""
    before, after = MotionVAE(VAE), MotionVAE(VAE)
    after.vae.encoder.load_state_dict(before.vae.encoder.state_dict())
    after.vae.quant_conv.load_state_dict(before.vae.quant_conv.state_dict())
    save_file(before.state_dict(), tmp_path / "before.safetensors")
    back = {new: old for old, new in PARTS.items()}
    state = {
        back[new] + name.removeprefix(new): value
        for name, value in after.state_dict().items()
        for new in back
        if name.startswith(new)
    }
    checkpoint = saved(tmp_path / "run", state, state | {"extra": torch.zeros(1)})
    file, whole = tmp_path / "after.safetensors", tmp_path / "before.safetensors"
    left_out = export_tensors(checkpoint, file, parts=PARTS, rest={"": whole}, like=whole)
    assert left_out == ["extra"] and same(load_file(file), after.state_dict())
    export_tensors(checkpoint, tmp_path / "VAE", parts=PARTS, rest={"": whole}, layout="motion_vae_folder")
    with torch.device("meta"):
        empty = MotionVAE(VAE)
    assert same(load_published(empty, tmp_path / "VAE", "motion_vae_folder").state_dict(), after.state_dict())


def test_an_adapter_alone_is_a_lora_file_of_the_network(vism: ViSMTransformer, tmp_path: Path) -> None:
    make_trainable(vism, LoRASettings(rank=3, alpha=1.5), seed=1)
    for name, value in vism.named_parameters():
        if "lora_B" in name:
            value.data.normal_()
    checkpoint = saved(tmp_path / "run", vism.state_dict(), vism.state_dict())
    left_out = export_tensors(checkpoint, tmp_path / "x.safetensors", layout="vism_lora", lora_alpha=1.5)
    expected, found = adapter_changes(vism), read_lora(tmp_path / "x.safetensors", ViSMTransformer(**SMALL))
    assert found.keys() == expected.keys() and all(low.alpha == 1.5 for low in found.values())
    for name, low in found.items():
        assert torch.equal(low.down, expected[name].down) and torch.equal(low.up, expected[name].up)
    assert "blocks.0.attn1.to_q.base_layer.weight" in left_out and not any("lora_" in name for name in left_out)


def test_of_several_prefixes_the_longest_decides(trained: Checkpoint, tmp_path: Path) -> None:
    export_tensors(trained, tmp_path / "x.safetensors", parts={"": "all.", "blocks.0.": "first."})
    found = load_file(tmp_path / "x.safetensors")
    assert "first.attn1.to_q.weight" in found and "all.blocks.1.attn1.to_q.weight" in found
    assert not any(name.startswith("all.blocks.0.") for name in found)


def test_tensors_that_do_not_fit_leave_no_file(trained: Checkpoint, tmp_path: Path) -> None:
    save_file({"proj_out.bias": torch.zeros(3), "more": torch.zeros(1)}, tmp_path / "like.safetensors")
    refusals = {
        "1 missing: more .1.; .* extra: .*of another shape: proj_out.bias is .64., not .3.": {
            "like": tmp_path / "like.safetensors"
        },
        "holds no tensor ema/other.*; it holds ema/, model/": {"parts": {"other": ""}},
        "holds no adapter": {"lora_alpha": 1.0},
        "has no blocks": {"layout": "omnimae"},
        "there is no layout 'wan'": {"layout": "wan"},
        "two tensors of .* would be called": {"parts": {"blocks.0.": "b.", "blocks.1.": "b."}},
    }
    for reason, given in refusals.items():
        with pytest.raises(CheckpointError, match=reason):
            export_tensors(trained, tmp_path / "out" / "x.safetensors", **given)
    assert not (tmp_path / "out").exists()


def test_no_more_than_one_tensor_is_held(trained: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, most, whole = [], [], Checkpoint.whole

    def watched(self: Checkpoint, name: str) -> Tensor:
        most.append(sum(reference() is not None for reference in held))
        value = whole(self, name)
        held.append(weakref.ref(value))
        return value

    monkeypatch.setattr(Checkpoint, "whole", watched)
    export_tensors(trained, tmp_path / "x.safetensors", dtype=torch.float16)
    # The one before is let go once the next was written over it.
    assert len(most) > 20 and max(most) <= 1
