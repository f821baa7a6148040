from pathlib import Path

import pytest
import torch
from more4d.models.conversion import CheckpointError
from more4d.training.checkpoints import Checkpoint, CheckpointSettings, CheckpointStore, Ranks
from more4d.training.checkpoints.index import Index, StoredFile, StoredTensor, write_index
from safetensors.torch import load_file, save_file

from tests.more4d.training.checkpoints.groups import cut, example, read_whole, same, together


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """`example()` at step 7, cut among four ranks."""

    def write(ranks: Ranks) -> None:
        CheckpointStore(tmp_path, CheckpointSettings(), ranks).save(7, cut(example(), 4)[ranks.rank], {"seed": 3}, 0.5)

    together(4, write)
    return Checkpoint(tmp_path / "step-00000007")


def test_it_tells_what_it_holds(checkpoint: Checkpoint) -> None:
    assert (checkpoint.step, checkpoint.score, checkpoint.ranks, checkpoint.state) == (7, 0.5, 4, {"seed": 3})
    assert checkpoint.names() == sorted(example())
    assert checkpoint.shape("model/blocks.0.bias") == (7,) and checkpoint.dtype("model/blocks.0.bias") == torch.bfloat16
    assert checkpoint.shape("model/blocks.0.count") == () and same(read_whole(checkpoint), example())
    assert checkpoint.size == sum(file.stat().st_size for file in checkpoint.folder.glob("rank-*"))


def test_every_run_of_numbers_is_read_across_files(checkpoint: Checkpoint) -> None:
    name = "optimizer/blocks.0.weight/exp_avg"
    flat = example()[name].reshape(-1)
    for start in range(0, 97, 7):
        for end in range(start, 97, 5):
            assert torch.equal(checkpoint.read(name, start, end - start), flat[start:end])


def test_only_the_files_that_hold_what_is_asked_for_are_opened(checkpoint: Checkpoint) -> None:
    expected = example()["rng/0/cpu"][:3]
    (file, _, count), *others = checkpoint._index.tensors["rng/0/cpu"].runs
    assert count >= 3 and others
    for other in checkpoint.folder.glob("rank-*"):
        if other.name != file:
            other.unlink()
    assert torch.equal(checkpoint.read("rng/0/cpu", 0, 3), expected)
    with pytest.raises(CheckpointError, match="is missing"):
        checkpoint.whole("rng/0/cpu")


@pytest.mark.parametrize(("start", "count"), [(0, 8), (-1, 2), (8, 0), (3, -1)])
def test_numbers_that_are_not_there_are_refused(checkpoint: Checkpoint, start: int, count: int) -> None:
    with pytest.raises(ValueError, match=r"model/blocks\.0\.bias has 7 numbers"):
        checkpoint.read("model/blocks.0.bias", start, count)
    with pytest.raises(KeyError, match="holds no tensor nothing"):
        checkpoint.read("nothing", 0, 1)


def test_a_file_with_other_tensors_than_the_index_says_is_refused(checkpoint: Checkpoint) -> None:
    first, second = sorted(checkpoint.folder.glob("rank-*"))[:2]
    first.write_bytes(second.read_bytes())
    with pytest.raises(CheckpointError, match=r"rank-00000\.safetensors does not hold the"):
        read_whole(checkpoint)


def test_a_file_with_tensors_of_another_type_or_length_is_refused(checkpoint: Checkpoint) -> None:
    for file in checkpoint.folder.glob("rank-*"):
        save_file({key: value.repeat(2) for key, value in load_file(file).items()}, file)
    with pytest.raises(CheckpointError, match=r"does not hold the \d+ numbers of ema/"):
        read_whole(checkpoint)


def test_an_index_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    stored = StoredTensor(shape=(1,), dtype="F32", runs=(("../rank-00000.safetensors", 0, 1),))
    files = {"rank-00000.safetensors": StoredFile(sha256="", size=1)}
    with pytest.raises(ValueError, match="is no file of this checkpoint"):
        Index(step=1, files=files, tensors={"a": stored}, state={})


def test_a_checkpoint_of_a_later_format_is_refused(tmp_path: Path) -> None:
    write_index(tmp_path, Index.model_construct(version=2, step=1, score=None, files={}, tensors={}, state={}))
    with pytest.raises(CheckpointError, match=r"index\.json is no index of a checkpoint: version"):
        Checkpoint(tmp_path)
