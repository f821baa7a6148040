import contextlib
import json
import pickle
import random
import shutil
from pathlib import Path

import pytest
import torch
from more4d.models.conversion import CheckpointError, outlines, read_ours, read_published
from more4d.models.vism import ViSMTransformer
from safetensors.torch import save_file
from torch import Tensor

INDEX = "diffusion_pytorch_model.safetensors.index.json"


class Payload:
    """What a pickle must never get to do."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return shutil.copyfile, (__file__, self.mark)


def same(found: object, expected: dict[str, Tensor]) -> bool:
    assert isinstance(found, dict)
    return found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected)


def test_one_file_its_folder_and_shards_hold_the_same(file: Path, shards: Path, state: dict[str, Tensor]) -> None:
    for path in (file, file.parent, shards, shards / INDEX):
        assert same(dict(read_published(path)), state)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".torch", ".bin"])
@pytest.mark.parametrize("archive", [True, False])
def test_pickled_tensors_of_new_and_old_torch_are_read(suffix: str, archive: bool, tmp_path: Path) -> None:
    tensors = {"a.weight": torch.randn(3, 2), "b": torch.arange(4)}
    torch.save(tensors, tmp_path / f"x{suffix}", _use_new_zipfile_serialization=archive)
    assert same(dict(read_published(tmp_path / f"x{suffix}")), tensors)


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_the_known_nestings_are_opened(key: str, tmp_path: Path) -> None:
    tensors = {"trunk.norm.weight": torch.ones(2)}
    torch.save({key: tensors, "epoch": 3}, tmp_path / "x.torch")
    assert same(dict(read_published(tmp_path / "x.torch")), tensors)


@pytest.mark.parametrize("held", [{"weights": {"a": torch.ones(1)}, "epoch": 3}, {"a": torch.ones(1), "epoch": 3}])
def test_other_nestings_are_refused_by_name(held: dict[str, object], tmp_path: Path) -> None:
    torch.save(held, tmp_path / "x.torch")
    with pytest.raises(CheckpointError, match=rf"holds {', '.join(held)}, neither tensors by name nor"):
        read_published(tmp_path / "x.torch")


@pytest.mark.parametrize("held", [{}, [torch.ones(1)], 3])
def test_a_pickle_of_something_else_is_refused(held: object, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x.pth holds (nothing|list|int), neither tensors"):
        read_published(tmp_path / "x.pth")


@pytest.mark.parametrize("archive", [True, False])
def test_code_in_a_pickle_is_refused_and_never_runs(archive: bool, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"a": torch.ones(1), "b": Payload(mark)}, tmp_path / "x.pth", _use_new_zipfile_serialization=archive)
    with pytest.raises(
        CheckpointError, match=r"x.pth holds Python objects \(shutil.copyfile\) beside tensors; it is not"
    ):
        read_published(tmp_path / "x.pth")
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_bare_pickle_is_refused_and_never_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "x.bin").write_bytes(pickle.dumps(Payload(mark), protocol=2))
    with pytest.raises(CheckpointError, match="x.bin"):
        read_published(tmp_path / "x.bin")
    assert not mark.exists()


@pytest.mark.parametrize("keep", [0, 4, 5_000, -100])
def test_a_truncated_safetensors_file_is_said_to_be_one(keep: int, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model.safetensors is truncated or no safetensors file"):
        read_published(file)


@pytest.mark.parametrize("keep", [0, 1, 40, -100])
def test_a_truncated_pickle_is_said_to_be_one(keep: int, tmp_path: Path) -> None:
    torch.save({"a": torch.randn(100)}, tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes((tmp_path / "x.pth").read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="x.pth is truncated or no file of torch.save"):
        read_published(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["page.safetensors", "page.pth"])
def test_another_kind_of_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("<!doctype html><title>404</title>" * 20)
    with pytest.raises(CheckpointError, match=rf"{name} is truncated or no"):
        read_published(tmp_path / name)


def test_a_git_lfs_pointer_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CheckpointError, match="is a git-lfs pointer.*git lfs pull"):
        read_published(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["none.safetensors", "none.pth", "none.safetensors.index.json"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        read_published(tmp_path / name)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"x.gguf is none of \*.safetensors"):
        read_published(tmp_path / "x.gguf")


def test_a_folder_of_several_files_is_refused(file: Path) -> None:
    (file.parent / "other.safetensors").write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match="must hold one safetensors file or index, not diffusion_.*, other"):
        read_published(file.parent)


def test_missing_shards_are_named(shards: Path) -> None:
    (shards / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="names shards that are missing: diffusion_pytorch_model-00002-of-00003"):
        read_published(shards)


def test_a_key_that_its_shard_lacks_is_named(shards: Path) -> None:
    index = json.loads((shards / INDEX).read_text())
    index["weight_map"]["blocks.7.norm3.bias"] = "diffusion_pytorch_model-00001-of-00003.safetensors"
    del index["weight_map"]["head.head.bias"]
    (shards / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="disagree on where blocks.7.norm3.bias, head.head.bias is"):
        read_published(shards)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"weight_map": {"a": "../../a.safetensors"}}', '{"weight_map": [1]}']
)
def test_an_index_that_is_none_or_reaches_elsewhere_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match="is no index of safetensors shards"):
        read_published(tmp_path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("archive", [True, False])
def test_random_damage_to_a_pickle_is_an_error_of_ours_or_none(archive: bool, tmp_path: Path) -> None:
    tensors = {f"blocks.{i}.weight": torch.randn(3, 4) for i in range(3)}
    torch.save(tensors, tmp_path / "x.pth", _use_new_zipfile_serialization=archive)
    whole, damage = (tmp_path / "x.pth").read_bytes(), random.Random(0)
    for _ in range(150):
        torn = bytearray(whole[: damage.choice([len(whole), damage.randrange(len(whole))])])
        for place in damage.sample(range(len(torn)), min(len(torn), damage.randrange(4))):
            torn[place] = damage.randrange(256)
        (tmp_path / "x.pth").write_bytes(torn)
        with contextlib.suppress(CheckpointError):
            read_published(tmp_path / "x.pth")


def test_a_file_is_read_by_our_names_and_one_of_ours_by_the_published_ones(
    shards: Path, vism: ViSMTransformer, state: dict[str, Tensor], tmp_path: Path
) -> None:
    ours = read_ours(shards, "wan_dit")
    assert same(dict(ours), vism.state_dict())
    assert outlines(ours).keys() == ours.keys()
    assert {name: value.shape for name, value in outlines(ours).items()} == {n: v.shape for n, v in ours.items()}
    save_file(dict(ours), tmp_path / "ours.safetensors")
    assert same(dict(read_ours(tmp_path / "ours.safetensors", "wan_dit", back=True)), state)
