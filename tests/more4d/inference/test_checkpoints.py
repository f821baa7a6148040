import shutil
from pathlib import Path

import pytest
import torch
from more4d.inference.checkpoints import load_checkpoint
from more4d.models.bundle import save_network


def test_a_lineage_folder_puts_its_networks_over_the_base(checkpoint: Path, tmp_path: Path) -> None:
    base = load_checkpoint(checkpoint)
    shutil.copytree(checkpoint, tmp_path / "tiny-base")
    for folder, network in (("motion_vae", "vae"), ("strag", "strag"), ("vism", "vism")):
        (tmp_path / folder).mkdir()
        save_network(getattr(base, network), tmp_path / folder / f"{network}.safetensors")
    trained = load_checkpoint(checkpoint).strag
    with torch.no_grad():
        trained.proj_out.weight.add_(1)
    save_network(trained, tmp_path / "strag" / "strag.safetensors")
    models = load_checkpoint(tmp_path)
    assert torch.equal(models.strag.proj_out.weight, base.strag.proj_out.weight + 1)
    assert torch.equal(models.vism.proj_out.weight, base.vism.proj_out.weight)
    assert models.files["strag"] == tmp_path / "strag" / "strag.safetensors"


def test_a_folder_without_networks_is_named_with_the_way_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no checkpoint at .*nowhere.*make tiny-base"):
        load_checkpoint(tmp_path / "nowhere")
