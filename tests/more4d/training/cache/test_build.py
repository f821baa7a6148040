import dataclasses
import gc
import logging
import shutil
import weakref
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from more4d.data.sample import Sample
from more4d.data.shards import TrajSceneDataset, write_shards
from more4d.training.cache import fill
from more4d.training.cache.networks import CheckpointEncoders
from more4d.training.distributed.world import World
from safetensors.torch import load_file, save_file

NAMES = {"motion", "truth", "picture", "text", "image", "features", "views", "view_truth"}


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of a cache."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def change_tensor(folder: Path, file: str, start: str) -> None:
    """Another number in the first tensor of a weight file whose name starts so."""
    tensors = load_file(folder / file)
    name = min(name for name in tensors if name.startswith(start) and tensors[name].is_floating_point())
    tensors[name].view(-1)[0] += 0.5
    save_file(tensors, folder / file)


def test_nothing_is_computed_twice_and_the_bytes_are_those_of_a_fresh_cache(place: Any) -> None:
    first, again = place.build("first"), place.build("again")
    assert first.computed == len(first.files) == 2 * len(NAMES)
    assert again.computed == 0
    assert bytes_of(place.root / "first") == bytes_of(place.root / "again")
    shutil.rmtree(place.root / "store")
    assert place.build("fresh").computed == first.computed
    assert bytes_of(place.root / "fresh") == bytes_of(place.root / "first")


def test_after_the_vae_was_trained_text_clip_and_features_are_not_computed_again(place: Any, checkpoint: Path) -> None:
    place.build("first")
    trained = shutil.copytree(checkpoint, place.root / "trained")
    change_tensor(trained, "vae.safetensors", "vae.decoder.")
    assert place.build("decoder", vae=trained / "vae.safetensors").computed == 0
    change_tensor(trained, "vae.safetensors", "trajectory_encoder.net.conv_out.bias")
    computed = place.build("encoder", vae=trained / "vae.safetensors")
    assert computed.computed == 2
    old, new = bytes_of(place.root / "first"), bytes_of(place.root / "encoder")
    changed = {name for name in old if old[name] != new[name]}
    assert changed == {"train-00000.motion.safetensors", "val-00000.motion.safetensors", "manifest.json"}


def test_the_flag_for_the_decoded_error_adds_files_and_changes_none(place: Any) -> None:
    without, decoded = place.build("without", decoded=False), place.build("with", decoded=True)
    assert decoded.computed == 4
    added = set(decoded.files) - set(without.files)
    assert {name.split(".")[1] for name in added} == {"truth", "view_truth"}
    assert without.files.items() <= decoded.files.items()


def test_a_changed_sample_costs_its_own_shard_alone(place: Any, samples: list[Sample]) -> None:
    def dataset(name: str, caption: str) -> Path:
        folder = place.root / name
        told = [samples[0], dataclasses.replace(samples[1], caption=caption)]
        write_shards(told, folder, split="train", shard_bytes=1)
        write_shards([dataclasses.replace(samples[2], split="val")], folder, split="val", shard_bytes=10**6)
        return folder

    before = place.build("before", dataset=dataset("one", "a patch moves"))
    after = place.build("after", dataset=dataset("two", "a patch stays"))
    assert (before.computed, after.computed) == (3 * len(NAMES), len(NAMES))
    same = {name for name in before.files if before.files[name] == after.files[name]}
    # Of the changed sample only the caption is another: what it does not reach came out the same.
    assert set(before.files) - same == {"train-00001.text.safetensors"}


def test_a_build_that_is_stopped_goes_on_where_it_was(place: Any, mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, seen = fill._encode, []

    def stopping(*arguments: Any) -> Any:
        seen.append(arguments)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(fill, "_encode", stopping)
    with pytest.raises(KeyboardInterrupt):
        place.build("stopped", dataset=mixed)
    rest = place.build("rest", dataset=mixed)
    assert rest.computed == len(rest.files) - 2 * len(NAMES)
    shutil.rmtree(place.root / "store")
    place.build("undisturbed", dataset=mixed)
    assert bytes_of(place.root / "rest") == bytes_of(place.root / "undisturbed")


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "note"])
def test_a_damaged_file_of_the_store_is_computed_again_with_a_warning(
    place: Any, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    place.build("first")
    stored = min((place.root / "store").glob("*.safetensors"))
    data = bytearray(stored.read_bytes())
    data[-1] ^= 1
    note = stored.with_suffix(".json")
    # A new inode: the cache that was made shares the old one.
    stored.unlink()
    if damage == "note":
        note.write_text("{")
    if damage != "gone":
        stored.write_bytes(data[: -9 if damage == "cut" else None])
    with caplog.at_level(logging.WARNING):
        assert place.build("again").computed == 1
    assert f"{stored} is damaged" in caplog.text
    assert bytes_of(place.root / "first") == bytes_of(place.root / "again")


def test_no_more_than_two_samples_are_alive_at_once(
    place: Any, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [dataclasses.replace(samples[0], id=f"scene-{i}") for i in range(7)]
    folder = place.root / "many"
    write_shards(many, folder, split="train", shard_bytes=10**7)
    write_shards([dataclasses.replace(samples[2], split="val")], folder, split="val", shard_bytes=10**7)
    get, alive, most = TrajSceneDataset.__getitem__, weakref.WeakSet[Sample](), [0]

    def counted(self: TrajSceneDataset, i: int) -> Sample:
        found = get(self, i)
        alive.add(found)
        gc.collect()
        most[0] = max(most[0], len(alive))
        return found

    monkeypatch.setattr(TrajSceneDataset, "__getitem__", counted)
    assert place.build("cache", dataset=folder).samples[6]["id"] == "scene-6"
    assert most[0] <= 2


def test_shards_are_cut_at_changes_of_shape_and_the_tables_say_what_is_where(place: Any, mixed: Path) -> None:
    place.build("cache", dataset=mixed)
    samples = pq.read_table(place.root / "cache" / "samples.parquet").to_pylist()
    stored = TrajSceneDataset(mixed, "train")
    assert [row["id"] for row in samples] == [*stored.ids, "scene-00002"]
    assert [row["width"] for row in samples] == [48, 32, 48, 32, 48]
    assert [bytes.fromhex(row["sha256"]) for row in samples[:4]] == stored.index.sha256.to_pylist()
    assert len({(row["shard"], row["row"]) for row in samples}) == 5
    widths = {row["shard"]: row["width"] for row in samples}
    assert all(widths[row["shard"]] == row["width"] for row in samples)
    views = pq.read_table(place.root / "cache" / "views.parquet").to_pylist()
    assert [(row["sample"], row["view"]) for row in views] == [
        (0, "original"), (1, "original"), (2, "original"), (2, "spiral"), (3, "original"), (3, "spiral"),
        (4, "original"),
    ]  # fmt: skip


def test_a_split_without_samples_is_refused(place: Any, samples: list[Sample]) -> None:
    folder = place.root / "empty"
    write_shards(samples[:1], folder, split="train", shard_bytes=10**6)
    write_shards([], folder, split="val", shard_bytes=10**6)
    with pytest.raises(ValueError, match="val: there are no samples to encode; verdicts.parquet says why"):
        place.build("cache", dataset=folder)


def test_only_what_is_missing_is_loaded(place: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.build("first")
    for file in (place.root / "store").glob("*.json"):
        rows = load_file(file.with_suffix(".safetensors"))
        if "motion_features" in rows:
            file.unlink()
    loaded: list[str] = []
    fill = CheckpointEncoders._filled

    def noted(self: CheckpointEncoders, network: torch.nn.Module, name: str) -> torch.nn.Module:
        loaded.append(name)
        return fill(self, network, name)

    monkeypatch.setattr(CheckpointEncoders, "_filled", noted)
    assert place.build("again").computed == 2
    assert loaded == ["motion_encoder"]


@dataclasses.dataclass(frozen=True)
class Apart(World):
    """A rank of several that nobody waits for."""

    def barrier(self) -> None:
        """Nobody is there."""

    def gather(self, value: Any) -> list[Any]:
        """One's own."""
        return [value]


def test_ranks_share_the_shards_and_the_main_one_writes_what_one_process_writes(place: Any, mixed: Path) -> None:
    shards = place.build("alone", dataset=mixed).computed // len(NAMES)
    shutil.rmtree(place.root / "store")
    cpu = torch.device("cpu")
    second = place.build("second", dataset=mixed, world=Apart(1, 2, cpu))
    assert (second.computed, second.files, bytes_of(place.root / "second")) == (shards // 2 * len(NAMES), {}, {})
    first = place.build("first", dataset=mixed, world=Apart(0, 2, cpu))
    assert first.computed + second.computed == shards * len(NAMES)
    assert bytes_of(place.root / "first") == bytes_of(place.root / "alone")
