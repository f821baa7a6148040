from pathlib import Path

import pytest
import torch
from more4d.models.conversion import CheckpointError, convert_file, load_published, read_published, to_published
from more4d.models.motion_encoder import TINY, MaskedAutoencoder
from more4d.models.trajectory_codec import TrajectoryCodecConfig
from more4d.models.vae import MotionVAE, MotionVAEConfig
from more4d.models.vism import ViSMTransformer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

VAE = MotionVAEConfig(codec=TrajectoryCodecConfig(width=8, groups=4), vae={"base_dim": 4, "num_res_blocks": 1})


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected)


def test_a_file_of_ours_is_the_networks_state_and_goes_back(
    shards: Path, vism: ViSMTransformer, state: dict[str, Tensor], tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "a" / "ours.safetensors", tmp_path / "theirs.safetensors"
    convert_file("wan_dit", shards, ours, network=vism)
    assert same(load_file(ours), vism.state_dict())
    convert_file("wan_dit", ours, theirs, network=vism, back=True)
    assert same(load_file(theirs), state)


def test_a_converted_file_has_the_dtype_that_was_asked_for(file: Path, vism: ViSMTransformer, tmp_path: Path) -> None:
    convert_file("wan_dit", file, tmp_path / "half.safetensors", dtype=torch.float16)
    assert same(load_file(tmp_path / "half.safetensors"), vism.half().state_dict())


def test_what_does_not_fit_the_given_network_leaves_no_file(file: Path, empty: ViSMTransformer, tmp_path: Path) -> None:
    empty.proj_out = nn.Linear(24, 3)
    with pytest.raises(CheckpointError, match="proj_out.bias is 64, not 3, proj_out.weight is 64x24, not 3x24"):
        convert_file("wan_dit", file, tmp_path / "out" / "x.safetensors", network=empty)
    assert not (tmp_path / "out").exists()


def test_mixed_dtypes_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state | {"head.head.bias": state["head.head.bias"].half()}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="mixes dtypes"):
        convert_file("wan_dit", tmp_path / "x.safetensors", tmp_path / "y.safetensors")


def test_a_write_that_fails_leaves_the_old_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    destination = tmp_path / "out" / "x.safetensors"
    destination.parent.mkdir()
    destination.write_text("old")

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("more4d.models.conversion.reading.ShardedState.read", fail)
    with pytest.raises(OSError, match="disk full"):
        convert_file("wan_dit", file, destination)
    assert [p.name for p in destination.parent.iterdir()] == ["x.safetensors"]
    assert destination.read_text() == "old"


def test_the_released_vae_folder_is_written_and_read(tmp_path: Path) -> None:
    made = MotionVAE(VAE)
    save_file(made.state_dict(), tmp_path / "ours.safetensors")
    convert_file("motion_vae_folder", tmp_path / "ours.safetensors", tmp_path / "VAE", network=made, back=True)
    files = sorted(p.relative_to(tmp_path / "VAE").as_posix() for p in (tmp_path / "VAE").rglob("*.bin"))
    assert files == [f"{part}/pytorch_model.bin" for part in ("decoder_prompt", "encoder_prompt", "vae")]
    assert all(key.startswith("model.") for key in read_published(tmp_path / "VAE" / "vae" / "pytorch_model.bin"))
    with torch.device("meta"):
        empty = MotionVAE(VAE)
    assert same(load_published(empty, tmp_path / "VAE", "motion_vae_folder").state_dict(), made.state_dict())


def test_a_vae_folder_that_lacks_a_part_says_which(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    with pytest.raises(CheckpointError, match="encoder_prompt/pytorch_model.bin is missing"):
        read_published(tmp_path)


@pytest.mark.parametrize("wrapper", ["", "model."])
def test_the_wan_vae_file_fits_the_vae_of_diffusers(wrapper: str, tmp_path: Path) -> None:
    vae = MotionVAE(VAE).vae
    theirs = {wrapper + key: value for key, value in to_published("wan_vae", vae.state_dict()).items()}
    torch.save(theirs, tmp_path / "Wan2.1_VAE.pth")
    with torch.device("meta"):
        empty = MotionVAE(VAE).vae
    assert same(load_published(empty, tmp_path / "Wan2.1_VAE.pth", "wan_vae").state_dict(), vae.state_dict())


def test_omnimae_is_read_from_its_pickle_and_written_as_one(tmp_path: Path) -> None:
    made = MaskedAutoencoder(TINY)
    save_file(made.state_dict(), tmp_path / "ours.safetensors")
    convert_file("omnimae", tmp_path / "ours.safetensors", tmp_path / "vitb_pretrain.torch", back=True)
    with torch.device("meta"):
        empty = MaskedAutoencoder(TINY)
    assert same(load_published(empty, tmp_path / "vitb_pretrain.torch", "omnimae").state_dict(), made.state_dict())
