import shutil
from pathlib import Path

import pytest
import torch
from more4d.models.bundle import NETWORKS, Models, load_exactly, read_architecture, save_network
from safetensors.torch import load_file, save_file


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint folder of the test's own."""
    return shutil.copytree(checkpoint, tmp_path / "copy")


def weights(models: Models, name: str) -> dict[str, torch.Tensor]:
    """One network's state."""
    return getattr(models, name).state_dict()


def test_what_was_saved_is_loaded(models: Models, checkpoint: Path) -> None:
    loaded = Models.load(checkpoint)
    assert loaded.config == models.config == read_architecture(checkpoint)
    assert loaded.text.tokenizer_json == models.text.tokenizer_json
    for name in NETWORKS:
        mine, theirs = weights(models, name), weights(loaded, name)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
        assert not getattr(loaded, name).training
        assert not any(p.requires_grad for p in getattr(loaded, name).parameters())


def test_half_precision_is_stored_and_single_is_run(models: Models, tmp_path: Path) -> None:
    models.save(tmp_path)
    assert load_file(tmp_path / "strag.safetensors")["patch_embedding.weight"].dtype == torch.float16
    loaded = Models.load(tmp_path).strag.patch_embedding.weight
    assert loaded.dtype == torch.float32
    assert torch.allclose(loaded, models.strag.patch_embedding.weight, atol=1e-4)


def test_a_network_can_come_from_another_file_and_the_hashes_follow(
    models: Models, checkpoint: Path, tmp_path: Path
) -> None:
    changed = {k: v + 1 for k, v in weights(models, "vae").items()}
    save_file(changed, tmp_path / "vae.safetensors")
    loaded = Models.load(checkpoint, overrides={"vae": tmp_path / "vae.safetensors"})
    assert all(torch.equal(v, changed[k]) for k, v in weights(loaded, "vae").items())
    plain = Models.load(checkpoint).hashes
    assert set(plain) == set(NETWORKS)
    assert [name for name in NETWORKS if plain[name] != loaded.hashes[name]] == ["vae"]


def test_overriding_a_network_that_is_none_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="unknown networks dit; the networks are vae, strag"):
        Models.load(checkpoint, overrides={"dit": checkpoint / "strag.safetensors"})


def test_a_wrong_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"no checkpoint at {tmp_path / 'none'}: config.json is missing"):
        Models.load(tmp_path / "none")


def test_a_broken_config_is_refused(copy: Path) -> None:
    (copy / "config.json").write_text('{"name": "tiny"}')
    with pytest.raises(ValueError, match=r"config\.json is not an architecture: motion_vae Field required"):
        Models.load(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not an architecture"):
        Models.load(copy)


@pytest.mark.parametrize("name", ["tokenizer.json", "vism.safetensors"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ValueError, match=rf"{name}.* is missing"):
        Models.load(copy)


def test_a_truncated_file_is_named(copy: Path) -> None:
    file = copy / "strag.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"strag\.safetensors is truncated"):
        Models.load(copy)


def test_keys_and_shapes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    layer, file = torch.nn.Linear(2, 3), tmp_path / "layer.safetensors"
    save_file({"weight": torch.zeros(3, 4), "scale": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="does not fit Linear: missing bias; unexpected scale; weight is") as error:
        load_exactly(layer, file)
    assert "weight is (3, 4), not (3, 2)" in str(error.value)
    save_network(layer, file, dtype=torch.float16)
    load_exactly(layer, file)
