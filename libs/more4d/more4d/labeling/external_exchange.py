"""How a network that labels in an environment of its own is run, and how its answers are checked.

Clips and labels travel as safetensors files through an exchange folder (docs/labeling.md). It belongs to what makes the
answers, and survives a kill: a later run asks only for what is not answered. The program on the other side is
more4d/labeling/worker/labeler.py.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from more4d.data.atomic import atomic_write_bytes, atomic_write_json
from more4d.data.hashing import hash_file
from more4d.data.tensors import encode_arrays, read_arrays
from more4d.labeling.external import DepthNetworkParams, ExternalParams

Arrays = dict[str, NDArray[Any]]
Expected = Mapping[str, tuple[int, ...]]
"""The names of an answer's float32 arrays, all of them, and their shapes."""

WORKER = Path(__file__).parent / "worker" / "labeler.py"
_POLL_SECONDS = 0.1
_DEATHS_IN_A_ROW = 3
LONGEST_ERROR = 500
_HUB_ID = re.compile(r"hf:([\w.-]+/[\w.-]+)")
# Ours would shadow the packages of the labeler's environment.
_OWN_ENVIRONMENT = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSTARTUP")


class WorkerError(RuntimeError):
    """The labeler's program cannot be run at all, or keeps dying: no fault of a clip."""


@dataclass(frozen=True)
class Exchange:
    """One network and the folder through which clips go to it and labels come back."""

    folder: Path
    network: str
    """As the worker calls it: unidepth, moge or delta."""
    params: ExternalParams
    python: str
    weights: str
    """An absolute path, or a Hugging Face id."""
    weights_version: str

    @classmethod
    def of(cls, network: str, params: ExternalParams, root: Path) -> Self:
        """The exchange of a configured network; paths are taken from the workspace `root`.

        Its folder is named after what makes an answer: the network, the settings that it is told, its weights, its
        environment's source and the worker's code. Raises ValueError where its interpreter or weights are not there.
        """
        python = _interpreter(params.python, root, network)
        weights, version = _weights(network, params, root)
        source = Path(python).parent.parent / "labeler-source.txt"
        makes = [_told(params), version, hash_file(WORKER), source.read_text() if source.is_file() else ""]
        digest = hashlib.sha256(json.dumps(makes, sort_keys=True).encode()).hexdigest()[:16]
        return cls(root / ".cache" / "labelers" / f"{network}-{digest}", network, params, python, weights, version)

    @property
    def version(self) -> str:
        """Which weights and which code answer; the code is known once the worker has started."""
        ready = self.folder / "ready.json"
        code = json.loads(ready.read_text()) if ready.is_file() else {}
        return "; ".join([self.weights_version, *(f"{name} {version}" for name, version in sorted(code.items()))])

    def ask(self, clips: Sequence[str], inputs: Callable[[str], Arrays]) -> None:
        """Have every clip answered, or recorded as failed; `inputs` gives a clip's arrays, or raises ValueError.

        Clips are called by names that other contents change. What was answered before is not asked again; what failed
        is. Raises WorkerError where the worker does not start,
        or dies three times without an answer in between.
        """
        for name in ("inputs", "errors"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in ("inputs", "answers", "errors"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        waiting = [clip for clip in clips if not self._file("answers", clip).exists()]
        with tqdm(total=len(waiting), desc=self.network, unit="clip", mininterval=0.5) as bar:
            for start in range(0, len(waiting), self.params.clips_per_run):
                batch = waiting[start : start + self.params.clips_per_run]
                self._label([clip for clip in batch if self._hand_over(clip, inputs)], bar)
                for clip in batch:
                    self._file("inputs", clip).unlink(missing_ok=True)

    def answer(self, clip: str, expected: Expected) -> Arrays:
        """A clip's arrays. Raises ValueError with the reason where it failed or the answer is not as expected."""
        error, file = self._file("errors", clip), self._file("answers", clip)
        if error.exists():
            raise ValueError(f"{self.network}: {' '.join(error.read_text().split())}")
        if not file.exists():
            raise ValueError(f"{self.network} was not asked about clip {clip}, or its answer is gone")
        try:
            arrays = read_arrays(file)[0]
            check_answer(arrays, expected)
        except ValueError as reason:
            # The next run asks again.
            file.unlink()
            raise ValueError(f"{self.network} answered what it should not: {reason}") from reason
        return arrays

    def _file(self, kind: str, clip: str) -> Path:
        return self.folder / kind / f"{clip}.{'txt' if kind == 'errors' else 'safetensors'}"

    def _hand_over(self, clip: str, inputs: Callable[[str], Arrays]) -> bool:
        try:
            atomic_write_bytes(self._file("inputs", clip), encode_arrays(inputs(clip), {}))
        except ValueError as reason:
            self._fail(clip, str(reason))
            return False
        return True

    def _fail(self, clip: str, reason: str) -> None:
        atomic_write_bytes(self._file("errors", clip), reason[:LONGEST_ERROR].encode())

    def _left(self, clips: Sequence[str]) -> list[str]:
        return [c for c in clips if not self._file("answers", c).exists() and not self._file("errors", c).exists()]

    def _label(self, clips: Sequence[str], bar: tqdm) -> None:
        """Run the worker until every clip has an answer or an error; a clip that it died over gets an error."""
        deaths = 0
        while left := self._left(clips):
            answers = self._answers(clips)
            reason = self._run(left, bar)
            after = self._left(clips)
            if not after:
                return
            clip = (self.folder / "current").read_text() if (self.folder / "current").exists() else ""
            if clip in after:
                self._fail(clip, reason)
            deaths = 1 if self._answers(clips) > answers else deaths + 1
            if deaths == _DEATHS_IN_A_ROW or len(self._left(clips)) == len(left):
                raise WorkerError(f"{self.network}: {len(after)} clips were left without an answer; {reason}")

    def _answers(self, clips: Sequence[str]) -> int:
        return sum(self._file("answers", clip).exists() for clip in clips)

    def _run(self, clips: Sequence[str], bar: tqdm) -> str:
        """One life of the worker over these clips; how it ended."""
        for name in ("ready.json", "current"):
            (self.folder / name).unlink(missing_ok=True)
        job = {"network": self.network, "weights": self.weights}
        job |= {"device": self.params.device, "settings": _told(self.params), "clips": list(clips)}
        atomic_write_json(self.folder / "jobs.json", job)
        with self._process() as process:
            return self._watch(process, clips, bar)

    @contextmanager
    def _process(self) -> Iterator[subprocess.Popen[bytes]]:
        """The worker in a session of its own; it and what it started are gone when the block ends."""
        command = [self.python, str(WORKER), str(self.folder), "--end-with-stdin"]
        environment = {key: value for key, value in os.environ.items() if key not in _OWN_ENVIRONMENT}
        with (self.folder / "worker.log").open("wb") as output:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise WorkerError(f"{self.network}: {self.python} cannot be run: {error}") from error
            with process:
                try:
                    yield process
                finally:
                    _kill(process)

    def _watch(self, process: subprocess.Popen[bytes], clips: Sequence[str], bar: tqdm) -> str:
        """Wait until the worker ends or takes too long. Raises WorkerError where it never got its weights loaded."""
        since, answered, ready = time.monotonic(), 0, False
        while (code := _wait(process)) is None:
            before, answered = answered, len(clips) - len(self._left(clips))
            was_ready, ready = ready, (self.folder / "ready.json").exists()
            bar.update(answered - before)
            if answered > before or ready > was_ready:
                since = time.monotonic()
            name = "clip_seconds" if ready else "start_seconds"
            limit = getattr(self.params, name)
            if time.monotonic() - since > limit:
                return self._ended(f"took longer than {name}={limit:g}", ready)
        bar.update(len(clips) - len(self._left(clips)) - answered)
        return self._ended(f"ended with code {code}", (self.folder / "ready.json").exists())

    def _ended(self, how: str, ready: bool) -> str:
        lines = [line for line in (self.folder / "worker.log").read_text(errors="replace").splitlines() if line.strip()]
        said = f"; it last said: {' | '.join(lines[-3:])}" if lines else ""
        if not ready:
            raise WorkerError(f"{self.network}: the worker of {self.python} did not start: it {how}{said}")
        return f"the worker {how}{said}"


def check_answer(arrays: Arrays, expected: Expected) -> None:
    """Raises ValueError where names, shapes, types or values are not those of a label."""
    if set(arrays) != set(expected):
        raise ValueError(f"arrays {', '.join(sorted(arrays))} instead of {', '.join(sorted(expected))}")
    for name, shape in expected.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != np.float32:
            raise ValueError(f"{name} is {array.dtype} {list(array.shape)} instead of float32 {list(shape)}")
        if bad := array.size - int(np.isfinite(array).sum()):
            raise ValueError(f"{bad} of {array.size} values of {name} are not finite")


def _interpreter(python: str, root: Path, network: str) -> str:
    # Not resolved: an environment's interpreter is a link, and what it is called decides what it imports.
    file = root / python
    found = str(file) if file.is_file() else None if "/" in python else shutil.which(python)
    if found is None:
        raise ValueError(
            f"no interpreter {python} for {network}; make its environment with infra/labelers/{network}/setup.sh FOLDER "
            "and name FOLDER/bin/python in params.yaml"
        )
    return found


def _told(params: ExternalParams) -> dict[str, Any]:
    """The settings that reach the network."""
    return params.model_dump(mode="json", exclude={*ExternalParams.model_fields, *params.ours})


def _weights(network: str, params: ExternalParams, root: Path) -> tuple[str, str]:
    """An absolute path, or a Hugging Face id; and what tells these weights from others."""
    revision = params.revision if isinstance(params, DepthNetworkParams) else None
    if hub := _HUB_ID.fullmatch(params.weights):
        if not isinstance(params, DepthNetworkParams):
            raise ValueError(f"{network} is read from a file alone, not from {params.weights}; see docs/labeling.md")
        if revision is None:
            raise ValueError(f"{params.weights} for {network} needs revision: the commit that is meant")
        return hub[1], f"{hub[1]}@{revision}"
    if revision is not None:
        raise ValueError(f"revision is of a Hugging Face repository (hf:owner/name); {params.weights} is a path")
    local = (root / params.weights).absolute()
    if not local.exists():
        also = "; a Hugging Face id is written hf:owner/name" if isinstance(params, DepthNetworkParams) else ""
        raise ValueError(f"no {local} for {network}; docs/labeling.md says where its weights are{also}")
    return str(local), _hash(local)


def _hash(weights: Path) -> str:
    """Twelve digits that tell one file, or one folder of files, from another; hidden ones are not weights."""
    if weights.is_file():
        return hash_file(weights)[:12]
    named = {path.relative_to(weights): path for path in weights.rglob("*") if path.is_file()}
    seen = sorted(name for name in named if not any(part.startswith(".") for part in name.parts))
    return hashlib.sha256("".join(f"{n.as_posix()} {hash_file(named[n])}\n" for n in seen).encode()).hexdigest()[:12]


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
