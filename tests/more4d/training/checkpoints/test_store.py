import json
import logging
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from more4d.models.conversion import CheckpointError
from more4d.training.checkpoints import Checkpoint, CheckpointSettings, CheckpointStore, Ranks
from more4d.training.checkpoints import store as module
from more4d.training.distributed.pieces import Piece
from torch import Tensor

from tests.more4d.training.checkpoints.groups import cut, example, read_whole, same, together

ROOT = Path(__file__).parents[4]
LAST = CheckpointSettings(keep_last=2, keep_best=False)
BACKGROUND = CheckpointSettings(keep_last=2, keep_best=False, asynchronous=True)


def files(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones too."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def damage(file: Path) -> None:
    """Flip one bit in the middle of a file, where the numbers are."""
    content = bytearray(file.read_bytes())
    content[-4] ^= 1
    file.write_bytes(content)


def read_share(checkpoint: Checkpoint, name: str, rank: int, count: int) -> Tensor:
    """The numbers of a tensor that fall to one of `count` ranks."""
    size = torch.Size(checkpoint.shape(name)).numel()
    start, end = size * rank // count, size * (rank + 1) // count
    return checkpoint.read(name, start, end - start)


@given(
    writers=some.sampled_from([1, 2, 3, 5]),
    readers=some.sampled_from([1, 2, 3, 4]),
    seed=some.integers(0, 2**32),
    asynchronous=some.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_what_any_number_of_ranks_wrote_any_other_number_reads(
    tmp_path_factory: pytest.TempPathFactory, writers: int, readers: int, seed: int, asynchronous: bool
) -> None:
    folder, tensors = tmp_path_factory.mktemp("run"), example(seed)
    shares = cut(tensors, writers, seed)
    chosen = CheckpointSettings(asynchronous=asynchronous)

    def write(ranks: Ranks) -> None:
        store = CheckpointStore(folder, chosen, ranks)
        store.save(7, shares[ranks.rank], {"rank": ranks.rank, "history": [{"step": 1, "loss": 0.1}]})
        store.finish()

    def read(ranks: Ranks) -> dict[str, Tensor]:
        found = CheckpointStore(folder, LAST, ranks).latest()
        assert found is not None and found.step == 7 and found.ranks == writers
        assert found.state == {"rank": 0, "history": [{"step": 1, "loss": 0.1}]}
        return {name: read_share(found, name, ranks.rank, readers) for name in found.names()}

    together(writers, write)
    shares = together(readers, read)
    joined = {name: torch.cat([share[name] for share in shares]).reshape(tensors[name].shape) for name in shares[0]}
    assert same(joined, tensors)


def test_the_same_state_gives_the_same_bytes_in_background_or_not(tmp_path: Path) -> None:
    for name, chosen in (("a", LAST), ("b", LAST), ("c", BACKGROUND)):

        def write(ranks: Ranks, folder: Path = tmp_path / name, chosen: CheckpointSettings = chosen) -> None:
            store = CheckpointStore(folder, chosen, ranks)
            store.save(100, cut(example(), 3)[ranks.rank], {"seed": 0, "loss": [0.1, float("nan")]}, score=0.25)
            store.finish()

        together(3, write)
    assert files(tmp_path / "a") == files(tmp_path / "b") == files(tmp_path / "c")
    assert set(files(tmp_path / "a")) == {"latest.json"} | {
        f"step-00000100/{file}" for file in ("index.json", *(f"rank-0000{rank}.safetensors" for rank in range(3)))
    }


def test_the_order_of_the_states_keys_comes_back(store: CheckpointStore, tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 0.5, "gradient": 2.0}]
    store.save(4, [], {"z": 1, "history": rows, "a": 2})
    found = store.latest()
    assert found is not None and list(found.state) == ["z", "history", "a"]
    assert list(found.state["history"][0]) == ["step", "loss", "gradient"]


def test_numbers_that_are_none_are_kept_in_the_state_and_never_the_best(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, LAST.model_copy(update={"keep_best": True}))
    store.save(1, [], {"loss": [float("nan"), float("inf"), 0.1]}, score=numpy.float32(0.5))
    store.save(2, [], {}, score=float("nan"))
    best, latest = store.best(), store.latest()
    assert best is not None and latest is not None and (best.step, best.score, latest.score) == (1, 0.5, None)
    assert str(best.state["loss"]) == "[nan, inf, 0.1]"


def test_a_background_save_holds_what_was_there_when_it_was_asked_for(tmp_path: Path) -> None:
    store, weight, history = CheckpointStore(tmp_path, BACKGROUND), torch.zeros(1000), [0]
    store.save(1, [Piece("model/w", (1000,), 0, weight)], {"history": history})
    weight += 1
    history.append(1)
    store.finish()
    found = store.latest()
    assert found is not None and found.state == {"history": [0]} and not found.whole("model/w").any()


def test_no_checkpoint_appears_before_every_rank_has_written_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, write_part = threading.Event(), module.write_part

    def slow(folder: Path, rank: int, pieces: list[Piece]) -> None:
        assert rank == 0 or go_on.wait(30)
        write_part(folder, rank, pieces)

    monkeypatch.setattr(module, "write_part", slow)

    def act(ranks: Ranks) -> tuple[bool, bool]:
        store = CheckpointStore(tmp_path, BACKGROUND, ranks)
        store.save(1, cut(example(), 2)[ranks.rank], {})
        if ranks.rank == 0:
            assert store._saving is not None
            wait([store._saving.part])
        ranks.barrier()
        early = store.poll()
        assert not (tmp_path / "step-00000001").exists()
        ranks.barrier()
        go_on.set()
        store.finish()
        return early, store.poll()

    assert together(2, act) == [(False, True)] * 2
    assert same(read_whole(Checkpoint(tmp_path / "step-00000001")), example())


def test_a_second_background_save_completes_the_first(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, BACKGROUND)
    store.save(1, cut(example(1), 1)[0], {})
    store.save(2, cut(example(2), 1)[0], {})
    assert same(read_whole(Checkpoint(tmp_path / "step-00000001")), example(1))
    assert store.latest() is not None and (tmp_path / "step-00000002").is_dir()


def test_nothing_saved_is_no_error(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "none", LAST)
    assert store.latest() is None and store.best() is None and store.poll() and not (tmp_path / "none").exists()


# What is damaged


def _truncate(folder: Path) -> None:
    file = folder / "rank-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


DAMAGES = {
    "SHA-256": lambda folder: damage(folder / "rank-00000.safetensors"),
    "bytes, not": _truncate,
    "rank-00000.safetensors is missing": lambda folder: (folder / "rank-00000.safetensors").unlink(),
    "index.json is missing": lambda folder: (folder / "index.json").unlink(),
    "is no index of a checkpoint": lambda folder: (folder / "index.json").write_bytes(b"\xff{garbage"),
    "index.json was altered": lambda folder: (folder / "index.json").write_text(
        (folder / "index.json").read_text().replace('"step": 3', '"step": 4')
    ),
}


@pytest.mark.parametrize("reason", DAMAGES)
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_damaged_checkpoint_is_passed_over_and_the_log_says_why(
    reason: str, ranks: int, store: CheckpointStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    DAMAGES[reason](tmp_path / "run" / "step-00000003")
    found = together(ranks, lambda group: CheckpointStore(tmp_path / "run", LAST, group).latest())
    assert all(each is not None and same(read_whole(each), example(2)) for each in found)
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert reason in record.getMessage() and "step-00000003" in record.getMessage()


def test_the_file_of_any_rank_is_verified_by_some_rank(tmp_path: Path) -> None:
    def write(ranks: Ranks) -> None:
        store = CheckpointStore(tmp_path, CheckpointSettings(keep_last=9), ranks)
        for step in range(6):
            store.save(step, cut(example(step), 5, step)[ranks.rank], {})

    together(5, write)
    for rank in range(5):
        damage(tmp_path / f"step-{rank + 1:08d}" / f"rank-{rank:05d}.safetensors")
    found = together(2, lambda ranks: CheckpointStore(tmp_path, LAST, ranks).latest())
    assert [each.step for each in found if each is not None] == [0, 0]


def test_when_all_are_damaged_the_error_names_them_and_what_to_do(store: CheckpointStore, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        damage(tmp_path / "run" / f"step-0000000{step}" / "rank-00000.safetensors")
    with pytest.raises(CheckpointError, match="step-00000003.*step-00000002.*step-00000001.*remove the folder"):
        store.latest()


def test_after_a_fall_back_the_next_save_takes_the_damaged_ones_place(store: CheckpointStore, tmp_path: Path) -> None:
    damage(tmp_path / "run" / "step-00000003" / "rank-00000.safetensors")
    assert store.latest() is not None
    again = CheckpointStore(tmp_path / "run", CheckpointSettings(keep_last=2, keep_best=False))
    again.save(3, cut(example(3), 1)[0], {"history": [3]})
    found = again.latest()
    assert found is not None and same(read_whole(found), example(3))


# What stays


@pytest.mark.parametrize("best", [False, True])
def test_the_newest_the_best_and_round_steps_stay(best: bool, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, CheckpointSettings(keep_last=2, keep_best=best, keep_every=4))
    for step in range(1, 11):
        store.save(step, [], {}, score=float(abs(step - 5)) if step < 10 else float("nan"))
    kept = {int(folder.name[5:]) for folder in tmp_path.glob("step-*")}
    assert kept == ({4, 5, 8, 9, 10} if best else {4, 8, 9, 10})
    assert json.loads((tmp_path / "latest.json").read_text())["step"] == 10
    assert (tmp_path / "best.json").exists() == best


def test_the_best_is_the_one_with_the_lowest_score(store: CheckpointStore, tmp_path: Path) -> None:
    found = store.best()
    assert found is not None and (found.step, found.score) == (2, 0.0) and same(read_whole(found), example(2))
    damage(tmp_path / "run" / "step-00000002" / "rank-00000.safetensors")
    with pytest.raises(CheckpointError, match=r"the best checkpoint is damaged: .*step-00000002.*best\.json"):
        store.best()


def test_a_best_that_is_gone_or_unreadable_is_replaced(
    store: CheckpointStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(tmp_path / "run" / "step-00000002")
    assert store.best() is None
    store.save(4, [], {}, score=9.0)
    (tmp_path / "run" / "best.json").write_text("{")
    store.save(5, [], {}, score=11.0)
    found = store.best()
    assert found is not None and found.step == 5 and "best.json is damaged" in caplog.text


# What goes wrong while saving


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Writing past `size` bytes of any file fails, as it does past a quota."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def save_all(folder: Path, step: int, shares: list[list[Piece]], chosen: CheckpointSettings = LAST) -> list[str]:
    """What goes wrong on each rank when all save a step."""

    def act(ranks: Ranks) -> str:
        store = CheckpointStore(folder, chosen, ranks)
        try:
            store.save(step, shares[ranks.rank], {})
            store.finish()
        except CheckpointError as error:
            return str(error)
        return ""

    return together(len(shares), act)


@pytest.mark.parametrize("chosen", [LAST, BACKGROUND], ids=["waiting", "background"])
def test_a_write_that_fails_on_one_rank_fails_on_all_and_leaves_the_last_checkpoint(
    chosen: CheckpointSettings, tmp_path: Path
) -> None:
    shares = [[Piece("a", (9,), 0, torch.zeros(9))], [Piece("b", (10**5,), 0, torch.ones(10**5))]]
    assert save_all(tmp_path, 1, shares, chosen) == ["", ""]
    before = files(tmp_path)
    with no_file_above(10**5):
        first, second = save_all(tmp_path, 2, shares, chosen)
    assert first == second and "step 2" in first and "rank 1: File too large" in first and "needs 402.1 kB" in first
    assert files(tmp_path) == before and not list(tmp_path.glob(".*"))
    assert save_all(tmp_path, 3, shares, chosen) == ["", ""]


def test_a_failed_background_save_is_told_by_the_next_call_and_the_one_after_works(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, BACKGROUND)
    with no_file_above(10**5):
        store.save(1, [Piece("b", (10**5,), 0, torch.ones(10**5))], {})
        with pytest.raises(CheckpointError, match="step 1.*File too large"):
            store.save(2, [], {})
    store.save(2, [], {})
    store.finish()
    assert [p.name for p in tmp_path.glob("*step*")] == ["step-00000002"]


@pytest.mark.parametrize("chosen", [LAST, BACKGROUND], ids=["waiting", "background"])
def test_a_disk_that_fills_up_in_mid_save_leaves_the_last_checkpoint(
    chosen: CheckpointSettings, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits, large = cut(example(), 2), [[Piece(n, (10**5,), 0, torch.ones(10**5))] for n in "abc"]
    assert save_all(small_disk, 1, fits, chosen) == ["", ""]
    # As under a quota, which the free space does not show: two files fit, the third does not.
    monkeypatch.setattr("more4d.training.checkpoints.folder.CheckpointFolder.free_bytes", lambda _: 10**9)
    first, *others = save_all(small_disk, 2, large, chosen)
    assert others == [first, first] and "No space left on device" in first and "needs 1.2 MB" in first
    assert sorted(p.name for p in small_disk.iterdir()) == ["latest.json", "step-00000001"]
    assert save_all(small_disk, 3, fits, chosen) == ["", ""]
    found = CheckpointStore(small_disk, LAST).latest()
    assert found is not None and found.step == 3 and same(read_whole(found), example())


def test_too_full_a_disk_is_refused_before_anything_is_written(small_disk: Path) -> None:
    large = [[Piece(name, (10**5,), 0, torch.ones(10**5))] for name in "abc"]
    first, *_ = save_all(small_disk, 1, large)
    assert "the disk is too full. It needs 1.2 MB, free are 1.0 MB" in first and not list(small_disk.iterdir())


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([Piece("w", (4,), 0, torch.zeros(2))], "pieces of w .*hold 2 numbers, its shape .4. asks for 4"),
        ([Piece("w", (4,), 2, torch.zeros(2))], "numbers 0 to 2 are in no piece"),
        (
            [Piece("w", (3,), 0, torch.zeros(2)), Piece("w", (3,), 1, torch.zeros(2))],
            "1 to 2 are in no piece or in two",
        ),
        ([Piece("w", (2,), 0, torch.zeros(1)), Piece("w", (2,), 1, torch.zeros(1).half())], "pieces of w disagree"),
        ([Piece("w", (2, 1), 0, torch.zeros(2, 1))], "piece of w is .2, 1., not a run"),
        ([Piece("w", (1,), 0, torch.zeros(1, dtype=torch.complex64))], "w is of type torch.complex64"),
    ],
)
def test_pieces_that_make_no_tensor_are_refused(pieces: list[Piece], reason: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=reason):
        CheckpointStore(tmp_path, LAST).save(1, pieces, {})
    assert not list(tmp_path.glob("*step*"))


def test_a_folder_that_a_rank_does_not_share_is_refused(tmp_path: Path) -> None:
    def act(ranks: Ranks) -> str:
        try:
            CheckpointStore(tmp_path / str(ranks.rank), LAST, ranks).save(1, [], {})
        except CheckpointError as error:
            return str(error)
        return ""

    first, second = together(2, act)
    assert "rank 1: " in first and "rank 1: " in second and "a folder that all nodes share" in first


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 1 in .*Not a directory"):
        CheckpointStore(tmp_path / "file" / "run", LAST).save(1, [], {})


def test_state_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        CheckpointStore(tmp_path, LAST).save(1, [], {"weights": torch.zeros(1)})


# Real processes


def script(name: str, *arguments: str) -> subprocess.Popen[str]:
    """A script of this folder in a process of its own."""
    command = [sys.executable, "-m", f"tests.more4d.training.checkpoints.{name}", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def told_by(running: subprocess.Popen[str]) -> dict[str, Any]:
    """What a script prints at its end."""
    output, _ = running.communicate(timeout=1700)
    assert running.returncode == 0
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module", params=[9, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What killed processes left, one a file operation of nine, or of all; in memory where there is a folder in memory."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path_factory.mktemp("killed")) as folder:
        return told_by(script("killed", folder, str(request.param)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A folder, and what each of the two processes says that saved there while they trained."""
    folder = tmp_path_factory.mktemp("trained")
    running = [script("saving", str(rank), str(folder), "2") for rank in range(2)]
    return folder, [told_by(each) for each in running]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", ["waiting", "background", "first of two", "second of two", "random"])
def test_killed_at_any_moment_a_whole_checkpoint_remains_and_the_rerun_cleans_up(
    mode: str, killed: dict[str, Any]
) -> None:
    told = killed[mode]
    assert told["kills"] >= 5 and told["wrong"] == []
    # Kills met every stretch: before the first checkpoint is whole, and after each of them.
    assert mode == "random" or (set(told["found"]) == {0, 1, 2, 3} and told["found"] == sorted(told["found"]))


@pytest.mark.parametrize("mode", ["waiting", "background"])
def test_two_processes_save_together_while_they_train(mode: str, trained: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, (first, second) = trained
    assert first == second and first[mode]["latest"] == 5
    assert first[mode]["refused"].startswith("no checkpoint of step 6") and "rank 1" in first[mode]["refused"]
    found = CheckpointStore(folder / mode, LAST).latest()
    assert found is not None and found.step == 5 and found.ranks == 2 and same(read_whole(found), example(5))
    assert not list((folder / mode).glob(".step*"))
