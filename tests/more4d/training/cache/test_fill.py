import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from more4d.data.sample import Sample
from more4d.data.shards import TrajSceneDataset
from more4d.training.cache import encoders, fill
from more4d.training.cache.networks import CheckpointEncoders
from more4d.training.cache.samples import SampleList
from safetensors.torch import load_file, save_file

NAMES = {"motion", "truth", "picture", "text", "image", "features", "views", "view_truth"}


def change_tensor(folder: Path, file: str, start: str) -> None:
    """Another number in the first tensor of a weight file whose name starts so."""
    tensors = load_file(folder / file)
    name = min(name for name in tensors if name.startswith(start) and tensors[name].is_floating_point())
    tensors[name].view(-1)[0] += 0.5
    save_file(tensors, folder / file)


def change_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Another setting in a checkpoint's architecture."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def add_video_vae(folder: Path) -> None:
    """Wan's own VAE beside the motion VAE."""
    tensors = {k[4:]: v + 0.1 for k, v in load_file(folder / "vae.safetensors").items() if k.startswith("vae.")}
    save_file(tensors, folder / "video_vae.safetensors")


CHANGES: dict[str, tuple[Callable[[Path], None], set[str]]] = {
    "the VAE's decoder": (lambda f: change_tensor(f, "vae.safetensors", "vae.decoder."), set()),
    "the trajectory decoder": (lambda f: change_tensor(f, "vae.safetensors", "trajectory_decoder."), set()),
    "the trajectory encoder": (lambda f: change_tensor(f, "vae.safetensors", "trajectory_encoder."), {"motion"}),
    "the VAE's encoder": (
        lambda f: change_tensor(f, "vae.safetensors", "vae.group_basis"), {"motion", "picture", "views"},
    ),
    "a VAE for videos": (add_video_vae, {"views"}),
    "the text encoder": (lambda f: change_tensor(f, "text.safetensors", ""), {"text"}),
    "the tokenizer": (lambda f: (f / "tokenizer.json").write_text((f / "tokenizer.json").read_text() + " "), {"text"}),
    "CLIP": (lambda f: change_tensor(f, "image_encoder.safetensors", ""), {"image"}),
    "the motion encoder": (lambda f: change_tensor(f, "motion_encoder.safetensors", ""), {"features"}),
    "STraG": (lambda f: change_tensor(f, "strag.safetensors", ""), set()),
    "the depth encoding": (
        lambda f: change_config(f, lambda c: c["generation"].update(depth_encoding="linear")), {"picture"},
    ),
    "the motion's scale": (lambda f: change_config(f, lambda c: c["motion_vae"].update(motion_std=0.3)), {"motion"}),
    "the motion's camera": (
        lambda f: change_config(f, lambda c: c["motion_vae"].update(motion_camera="published")), {"motion", "truth"},
    ),
    "the sampler's steps": (lambda f: change_config(f, lambda c: c["generation"].update(steps=9)), set()),
}  # fmt: skip


@pytest.mark.parametrize("changed", CHANGES)
def test_a_change_of_the_checkpoint_changes_the_keys_of_what_it_changes_and_of_nothing_else(
    checkpoint: Path, tmp_path: Path, changed: str
) -> None:
    def keys(folder: Path) -> dict[str, str]:
        loaded = CheckpointEncoders(folder)
        wanted = encoders.all_encoders(loaded.config, decoded=True)
        return {e.name: fill.file_key(e.identity(loaded), "float16", (5, 32, 48), [("a", "b")]) for e in wanted}

    change, expected = CHANGES[changed]
    before = keys(checkpoint)
    shutil.copytree(checkpoint, tmp_path / "other")
    change(tmp_path / "other")
    after = keys(tmp_path / "other")
    assert before.keys() == after.keys() == NAMES
    assert {name for name in NAMES if before[name] != after[name]} == expected


def test_a_key_is_of_its_samples_their_contents_the_type_and_the_code() -> None:
    identity = {"encoder": "text", "version": 1, "settings": {}, "weights": "x"}
    samples = [("a", "1"), ("b", "2")]
    size = 5, 32, 48
    keys = [
        fill.file_key(identity, "float16", size, samples),
        fill.file_key(identity, "bfloat16", size, samples),
        fill.file_key(identity, "float16", (5, 32, 32), samples),
        fill.file_key(identity, "float16", size, samples[::-1]),
        fill.file_key(identity, "float16", size, samples[:1]),
        fill.file_key(identity, "float16", size, [("a", "1"), ("b", "3")]),
        fill.file_key(identity, "float16", size, [("a", "1"), ("c", "2")]),
        fill.file_key(identity | {"version": 2}, "float16", size, samples),
    ]
    assert len(set(keys)) == len(keys)
    assert fill.file_key(dict(identity), "float16", size, iter(samples)) == keys[0]


def test_a_shard_that_would_not_fit_the_memory_is_cut(samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    many = SampleList([dataclasses.replace(samples[0], id=f"scene-{i}") for i in range(7)])
    monkeypatch.setattr(fill, "MAX_SAMPLES", 3)
    cut = [(shard.name, shard.numbers) for shard in fill.latent_shards(many, "val")]
    assert cut == [("val-00000", (0, 1, 2)), ("val-00001", (3, 4, 5)), ("val-00002", (6,))]
    monkeypatch.setattr(fill, "MAX_PIXELS", 2 * 5 * 32 * 48)
    assert [len(shard.numbers) for shard in fill.latent_shards(many, "val")] == [2, 2, 2, 1]
    monkeypatch.setattr(fill, "MAX_PIXELS", 1)
    assert [len(shard.numbers) for shard in fill.latent_shards(many, "val")] == [1] * 7


def test_a_decoded_error_is_refused_where_the_vae_is_not_linear(checkpoint: Path) -> None:
    config = CheckpointEncoders(checkpoint).config
    wan = config.model_copy(update={"motion_vae": config.motion_vae.model_copy(update={"linear_start": False})})
    with pytest.raises(ValueError, match="latents.decoded=true needs a linear-start VAE"):
        encoders.all_encoders(wan, decoded=True)
    assert "truth" not in {encoder.name for encoder in encoders.all_encoders(wan, decoded=False)}


def test_samples_of_an_old_index_tell_their_shape_in_their_header(mixed: Path) -> None:
    dataset = TrajSceneDataset(mixed, "train")
    expected = SampleList(dataset).shapes
    dataset.index = dataclasses.replace(dataset.index, shape=np.zeros_like(dataset.index.shape))
    assert SampleList(dataset).shapes == expected == [(5, 32, 48), (5, 32, 32)] * 2
