"""Claims about more4d.labeling.external_exchange, with real worker processes in an environment of their own."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from more4d.data.tensors import write_arrays
from more4d.labeling import external_exchange
from more4d.labeling.external import DeltaParams, UniDepthParams
from more4d.labeling.external_exchange import Arrays, Exchange, WorkerError
from more4d.labeling.worker import labeler
from numpy.typing import NDArray
from pydantic import ValidationError

EXPECTED = {"depths": (2, 16, 24), "intrinsics": (3, 3)}
DIES, HANGS, RAISES, NOT_FINITE, WRONG_SIZE = 202, 203, 201, 204, 205


@pytest.fixture
def exchange(tmp_path: Path, labeler_environment: Path) -> Callable[..., Exchange]:
    """An exchange with the stand-in of UniDepthV2, in tmp_path."""
    (tmp_path / "weights").write_text("good")

    def make(**changes: object) -> Exchange:
        given = {"python": str(labeler_environment), "weights": "weights", "device": "cpu", "resolution_level": 3}
        params = UniDepthParams.model_validate(given | changes)
        return Exchange.of("unidepth", params, tmp_path)

    return make


def _frames(code: int = 0) -> Arrays:
    frames = np.random.default_rng(code).integers(0, 100, (2, 16, 24, 3)).astype(np.uint8)
    frames[:, 0, 0, 0] = code
    return {"frames": frames}


def test_clips_that_raise_kill_or_hang_are_errors_and_the_others_are_answered(
    exchange: Callable[..., Exchange],
) -> None:
    codes = {"a": 0, "raises": RAISES, "b": 1, "dies": DIES, "c": 2, "hangs": HANGS, "d": 3}
    codes |= {"not-finite": NOT_FINITE, "wrong-size": WRONG_SIZE}
    asked = exchange(clip_seconds=4, clips_per_run=5)
    asked.ask(list(codes), lambda clip: _frames(codes[clip]))
    for clip in "abcd":
        assert asked.answer(clip, EXPECTED)["depths"].shape == (2, 16, 24)
    reasons = {}
    for clip in set(codes) - set("abcd"):
        with pytest.raises(ValueError) as error:
            asked.answer(clip, EXPECTED)
        reasons[clip] = str(error.value)
    assert "RuntimeError: it cannot do this one" in reasons["raises"]
    assert "the worker ended with code -9" in reasons["dies"]
    assert "the worker took longer than clip_seconds=4" in reasons["hangs"]
    assert "of 768 values of depths are not finite" in reasons["not-finite"]
    assert "RuntimeError: shape '[16, 24]' is invalid" in reasons["wrong-size"]
    assert not list((asked.folder / "inputs").iterdir())


def test_a_clip_whose_video_cannot_be_read_is_an_error_of_its_own(exchange: Callable[..., Exchange]) -> None:
    def inputs(clip: str) -> Arrays:
        if clip == "bad":
            raise ValueError("bad.mp4 holds no frames")
        return _frames()

    asked = exchange()
    asked.ask(["bad", "good"], inputs)
    assert asked.answer("good", EXPECTED)["intrinsics"].shape == (3, 3)
    with pytest.raises(ValueError, match="bad.mp4 holds no frames"):
        asked.answer("bad", EXPECTED)


def test_answers_of_a_killed_run_are_kept_and_errors_are_asked_again(
    tmp_path: Path, exchange: Callable[..., Exchange], labeler_environment: Path
) -> None:
    (tmp_path / "weights").write_text("good")
    script = f"""
import numpy as np
from pathlib import Path
from more4d.labeling.external import UniDepthParams
from more4d.labeling.external_exchange import Exchange
params = UniDepthParams(python={str(labeler_environment)!r}, weights="weights", device="cpu", resolution_level=3)
frames = np.ones((2, 16, 24, 3), np.uint8)
hang = frames.copy(); hang[:, 0, 0, 0] = {HANGS}
exchange = Exchange.of("unidepth", params, Path({str(tmp_path)!r}))
exchange.ask(["a", "b", "c"], lambda clip: {{"frames": hang if clip == "b" else frames}})
"""
    host = subprocess.Popen([sys.executable, "-c", script])
    again, given = exchange(), []
    answer = again.folder / "answers" / "a.safetensors"
    _until(answer.exists)
    _until(lambda: (again.folder / "current").read_text() == "b")
    host.send_signal(signal.SIGKILL)
    host.wait()
    _until(lambda: not _workers(again.folder))
    before = answer.stat().st_mtime_ns
    # As if it had been killed between an answer and the end of its batch.
    (again.folder / "inputs" / "a.safetensors").write_bytes(b"frames")

    def inputs(clip: str) -> Arrays:
        given.append(clip)
        return _frames()

    again.ask(["a", "b", "c"], inputs)
    assert given == ["b", "c"]
    assert not list((again.folder / "inputs").iterdir())
    assert answer.stat().st_mtime_ns == before
    assert again.answer("b", EXPECTED)["depths"].shape == (2, 16, 24)
    again.ask(["a", "b", "c"], inputs)
    assert given == ["b", "c"]


def test_a_worker_that_cannot_start_fails_the_run_with_what_it_said(
    tmp_path: Path, exchange: Callable[..., Exchange]
) -> None:
    asked = exchange()
    (tmp_path / "weights").write_text("broken")
    with pytest.raises(WorkerError, match=r"did not start: it ended with code 1; .*these weights are no weights"):
        asked.ask(["a"], lambda _clip: _frames())
    with pytest.raises(WorkerError, match=r"did not start: it took longer than start_seconds=0.01"):
        exchange(start_seconds=0.01).ask(["a"], lambda _clip: _frames())


def test_a_worker_that_dies_over_three_clips_in_a_row_fails_the_run(exchange: Callable[..., Exchange]) -> None:
    with pytest.raises(WorkerError, match="5 clips were left without an answer; the worker ended with code -9"):
        exchange().ask([str(n) for n in range(7)], lambda _clip: _frames(DIES))


def test_what_is_not_there_is_refused_with_what_to_do(tmp_path: Path, exchange: Callable[..., Exchange]) -> None:
    with pytest.raises(
        ValueError, match=r"no interpreter envs/x/bin/python for unidepth; make .*labelers/unidepth/setup"
    ):
        exchange(python="envs/x/bin/python")
    with pytest.raises(ValueError, match=r"no /.*/models/typo for unidepth; .* id is written hf:owner/name"):
        exchange(weights="models/typo")
    with pytest.raises(ValueError, match="hf:a/b for unidepth needs revision: the commit"):
        exchange(weights="hf:a/b")
    with pytest.raises(ValidationError, match="revision"):
        exchange(weights="hf:a/b", revision="main")
    with pytest.raises(ValueError, match="revision is of a Hugging Face repository .*; weights is a path"):
        exchange(revision="0" * 40)
    hub = exchange(weights="hf:a/b", revision="0" * 40)
    assert (hub.weights, hub.weights_version) == ("a/b", f"a/b@{'0' * 40}")
    with pytest.raises(ValueError, match="no /.*/a/b for delta"):
        Exchange.of("delta", DeltaParams(python=sys.executable, weights="a/b"), tmp_path)
    with pytest.raises(ValueError, match="delta is read from a file alone, not from hf:a/b"):
        Exchange.of("delta", DeltaParams(python=sys.executable, weights="hf:a/b"), tmp_path)


def test_answers_belong_to_what_made_them_and_to_no_other_setting(
    tmp_path: Path, exchange: Callable[..., Exchange], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    (tmp_path / "labeler-source.txt").write_text("one")
    given = {"python": "bin/python"}
    first = exchange(**given).folder
    assert first.parent == tmp_path / ".cache" / "labelers" and re.fullmatch("unidepth-[0-9a-f]{16}", first.name)
    kept = {"clip_seconds": 1, "start_seconds": 1, "clips_per_run": 1, "device": "cuda", "steady": False}
    assert exchange(**given, **kept).folder == first
    others = {exchange(**given, resolution_level=4).folder, exchange(**given, camera_frames=1).folder}
    (tmp_path / "labeler-source.txt").write_text("another")
    others.add(exchange(**given).folder)
    (tmp_path / "labeler-source.txt").write_text("one")
    (tmp_path / "worker.py").write_text("other code")
    with monkeypatch.context() as patched:
        patched.setattr(external_exchange, "WORKER", tmp_path / "worker.py")
        others.add(exchange(**given).folder)
    (tmp_path / "weights").write_text("better")
    others.add(exchange(**given).folder)
    assert len(others | {first}) == 6


def test_other_weights_are_asked_again(tmp_path: Path, exchange: Callable[..., Exchange]) -> None:
    asked: list[str] = []

    def inputs(clip: str) -> Arrays:
        asked.append(clip)
        return _frames()

    exchange().ask(["a"], inputs)
    exchange(clip_seconds=30).ask(["a"], inputs)
    assert asked == ["a"]
    (tmp_path / "weights").write_text("better")
    exchange().ask(["a"], inputs)
    assert asked == ["a", "a"]


def test_weights_in_a_folder_are_told_apart_by_where_each_file_is_hidden_ones_aside(
    tmp_path: Path, exchange: Callable[..., Exchange]
) -> None:
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "model.bin").write_text("good")
    first = exchange(weights="folder").weights_version
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_text("now")
    assert exchange(weights="folder").weights_version == first
    (folder / "a").rename(folder / "b")
    assert exchange(weights="folder").weights_version != first


def test_what_a_clip_failed_of_is_cut_to_what_a_table_can_hold(exchange: Callable[..., Exchange]) -> None:
    def inputs(_clip: str) -> Arrays:
        raise ValueError("x" * 10_000)

    asked = exchange()
    asked.ask(["a"], inputs)
    assert [path.name for path in (asked.folder / "errors").iterdir()] == ["a.txt"]
    with pytest.raises(ValueError, match="^unidepth: x{500}$"):
        asked.answer("a", EXPECTED)
    assert external_exchange.LONGEST_ERROR == labeler.LONGEST_ERROR


def test_something_that_is_no_interpreter_is_an_error_that_names_it(
    tmp_path: Path, exchange: Callable[..., Exchange]
) -> None:
    (tmp_path / "python").write_text("no program")
    with pytest.raises(WorkerError, match="python cannot be run"):
        exchange(python="python").ask(["a"], lambda _clip: _frames())


def _sound() -> dict[str, NDArray[np.float32]]:
    return {"depths": np.ones((2, 16, 24), np.float32), "intrinsics": np.eye(3, dtype=np.float32)}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"depths": np.ones((2, 16, 23), np.float32)}, r"depths is float32 \[2, 16, 23\] instead of float32"),
        ({"depths": np.ones((2, 16, 24), np.float16)}, "depths is float16"),
        ({"extra": np.ones(1, np.float32)}, "arrays depths, extra, intrinsics instead of depths, intrinsics"),
        ({"intrinsics": np.full((3, 3), np.inf, np.float32)}, "9 of 9 values of intrinsics are not finite"),
    ],
)
def test_an_answer_that_is_no_label_is_refused_and_asked_again(
    exchange: Callable[..., Exchange], fault: dict[str, NDArray[np.float32]], reason: str
) -> None:
    asked = exchange()
    answer = asked.folder / "answers" / "a.safetensors"
    answer.parent.mkdir(parents=True)
    write_arrays(answer, _sound() | fault, {})
    with pytest.raises(ValueError, match=reason):
        asked.answer("a", EXPECTED)
    assert not answer.exists()


@pytest.mark.parametrize("damage", ["truncated", "pickle", "empty"])
def test_an_answer_that_is_no_safetensors_file_is_refused_and_never_unpickled(
    exchange: Callable[..., Exchange], tmp_path: Path, damage: str
) -> None:
    asked = exchange()
    answer = asked.folder / "answers" / "a.safetensors"
    answer.parent.mkdir(parents=True)
    write_arrays(answer, _sound(), {})
    whole = answer.read_bytes()
    answer.write_bytes(
        {"truncated": whole[:-9], "pickle": pickle.dumps(_Bomb(tmp_path / "went off")), "empty": b""}[damage]
    )
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        asked.answer("a", EXPECTED)
    assert not (tmp_path / "went off").exists()


def test_the_version_names_weights_and_code(exchange: Callable[..., Exchange]) -> None:
    asked = exchange()
    assert len(asked.version) == 12
    asked.folder.mkdir(parents=True)
    (asked.folder / "ready.json").write_text(json.dumps({"unidepth": "0.1", "torch": "2.2.0"}))
    assert asked.version.endswith("; torch 2.2.0; unidepth 0.1")


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def _until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def _workers(folder: Path) -> list[str]:
    """Processes whose command line names the exchange folder and that are not ended."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            command, state = (
                (process / "cmdline").read_bytes(),
                (process / "stat").read_text().rsplit(")", 1)[1].split()[0],
            )
        except OSError:
            continue
        if b"labeler.py\0" + str(folder).encode() in command and state != "Z":
            found.append(process.name)
    return found
