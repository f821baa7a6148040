"""Where a stage's command runs. A launcher runs one command to its end; the stage cannot tell which launcher it was."""

import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import dagster as dg

TAIL_LINES = 40
REST_BYTES = 1 << 16


@dataclass(frozen=True)
class Job:
    """One shell command of a stage, the folder it runs in and what it adds to the environment."""

    name: str
    command: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)


class JobFailedError(RuntimeError):
    """A command ended badly; `tail` holds the last lines of what it wrote."""

    def __init__(self, job: Job, code: int, tail: str) -> None:
        ending = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        super().__init__(f"stage {job.name}: `{job.command}` {ending}")
        self.code = code
        self.tail = tail


class Launcher(Protocol):
    """Runs `job` to its end, calling `on_line` for each line that it writes. Raises JobFailedError.

    When the caller is interrupted, nothing of the job is left running.
    """

    def launch(self, job: Job, on_line: Callable[[str], None]) -> None: ...


class LocalLauncher(dg.ConfigurableResource):
    """Runs jobs on this machine, each in a process group of its own that is stopped when the run is cancelled."""

    grace_seconds: float = 10.0
    """Between the polite signal and the one that cannot be refused."""
    bar_seconds: float = 10.0
    """A progress bar is logged at most this often."""

    def launch(self, job: Job, on_line: Callable[[str], None]) -> None:
        """Runs `job` to its end. Raises JobFailedError when its exit code is not 0."""
        process: subprocess.Popen[bytes] | None = None
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        try:
            with _signals_held():
                process = _start(job)
            for line in _lines(process, self.bar_seconds):
                tail.append(line)
                on_line(line)
            code = process.wait()
        finally:
            if process is not None:
                stop_group(process, self.grace_seconds)
        if code:
            raise JobFailedError(job, code, "\n".join(tail))


@contextmanager
def _signals_held() -> Iterator[None]:
    """SIGINT and SIGTERM wait for the end of the block: an interrupted Popen would leave a process nobody knows."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python interrupts its main thread alone.
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        for number in came:
            signal.raise_signal(number)


def _start(job: Job) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", job.command],
        cwd=job.folder,
        env=_environment(job),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _environment(job: Job) -> dict[str, str]:
    """This process's environment; its interpreter comes first on PATH, so that `python` in dvc.yaml is this one."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **job.environment}


def _lines(process: subprocess.Popen[bytes], bar_seconds: float) -> Iterator[str]:
    """Lines of the process's output until it has ended; a pipe that a grandchild holds open is not waited for."""
    assert process.stdout is not None
    splitter = LineSplitter(bar_seconds)
    with process.stdout as stream, selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            ready = selector.select(timeout=0.2)
            chunk = os.read(stream.fileno(), 1 << 16) if ready else b""
            yield from splitter.feed(chunk)
            if not chunk and (ready or process.poll() is not None):
                break
    yield from splitter.flush()


class LineSplitter:
    """Turns bytes into lines. What a carriage return overwrites, as progress bars do, is kept once every `bar_seconds`."""

    def __init__(self, bar_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rest = b""
        self._bar_seconds = bar_seconds
        self._clock = clock
        self._last_bar = clock()

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that `chunk` completes."""
        *complete, self._rest = (self._rest + chunk).split(b"\n")
        lines = [_last_state(line) for line in complete]
        if b"\r" in self._rest and self._clock() - self._last_bar >= self._bar_seconds:
            self._last_bar = self._clock()
            lines.append(_last_state(self._rest))
        self._rest = self._rest[-REST_BYTES:]
        return [line for line in lines if line]

    def flush(self) -> list[str]:
        """What was left without a line end."""
        rest, self._rest = _last_state(self._rest), b""
        return [rest] if rest else []


def _last_state(line: bytes) -> str:
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace").rstrip()


def stop_group(process: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """Ends every process of the group that `process` leads: SIGTERM, then SIGKILL to what is left after the grace."""
    _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while _group_alive(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _group_alive(process: subprocess.Popen[bytes]) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True
