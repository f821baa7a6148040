"""A real S3 server on this machine: JuiceFS's gateway over a folder, to be killed and started again."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEYS = {"MINIO_ROOT_USER": "more4d-test", "MINIO_ROOT_PASSWORD": "more4d-test-secret"}
_PATIENCE_S = 30


class S3Server:
    """`start` and `kill` as often as wished; what was put stays in `folder`."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._program = str(Path(sys.executable).with_name("juicefs"))
        self._meta = f"sqlite3://{folder}/meta.db"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        store = ["--storage", "file", "--bucket", f"{folder}/data/", "--trash-days", "0"]
        subprocess.run([self._program, "format", *store, self._meta, "test"], check=True, capture_output=True)

    def start(self) -> None:
        """Returns when the server answers."""
        options = [
            "--multi-buckets",
            "--keep-etag",
            "--no-banner",
            "--no-usage-report",
            "--cache-dir",
            f"{self._folder}/cache",
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "gateway", *options, self._meta, f"127.0.0.1:{self.port}"],
                env={**os.environ, **KEYS}, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + _PATIENCE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server did not start: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """As a power cut would: SIGKILL to the whole group."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    @contextmanager
    def killed_after(self, more_bytes: int) -> Iterator[None]:
        """Kill it while the block runs, as soon as it holds so many more bytes than before."""
        before, over = self.stored(), threading.Event()

        def watch() -> None:
            while self.stored() < before + more_bytes and not over.wait(0.005):
                pass
            self.kill()

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def stored(self) -> int:
        """Bytes in its folder, those of unfinished uploads among them."""
        return sum(path.stat().st_size for path in (self._folder / "data").rglob("*") if path.is_file())

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
