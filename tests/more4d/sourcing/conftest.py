"""A real HTTP server on 127.0.0.1 that behaves as badly as it is told to, and a real S3 server."""

import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

Trick = Callable[[BaseHTTPRequestHandler, bytes], None]


class Site:
    """Files by path, and tricks that are played on a path's next requests, one each."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.types: dict[str, str] = {}
        self.tricks: dict[str, list[Trick]] = {}
        self.asked: list[tuple[str, str]] = []
        """(path, Range header) of each request."""
        self.busy = self.busiest = 0
        self.port = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def add(self, path: str, content: bytes, *tricks: Trick) -> str:
        self.files[path] = content
        self.tricks[path] = list(tricks)
        return self.url(path)

    def ranges(self, path: str) -> list[str]:
        return [given for asked, given in self.asked if asked == path]

    @staticmethod
    def status(code: int, **headers: str) -> Trick:
        def play(handler: BaseHTTPRequestHandler, content: bytes) -> None:
            _send(handler, code, b"", {key.replace("_", "-"): value for key, value in headers.items()})

        return play

    @staticmethod
    def answer(code: int, body: bytes, headers: dict[str, str]) -> Trick:
        return lambda handler, content: _send(handler, code, body, headers)

    @staticmethod
    def cut(after: int) -> Trick:
        """Claims the whole length, sends `after` bytes and closes the connection."""

        def play(handler: BaseHTTPRequestHandler, content: bytes) -> None:
            handler.close_connection = True
            headers = {"Content-Length": str(len(content)), "ETag": etag(content), "Content-Type": "video/mp4"}
            _send(handler, 200, content[:after], headers)

        return play

    @staticmethod
    def after(seconds: float, then: Trick) -> Trick:
        def play(handler: BaseHTTPRequestHandler, content: bytes) -> None:
            time.sleep(seconds)
            then(handler, content)

        return play

    @staticmethod
    def drip(seconds: float) -> Trick:
        """A byte after each pause: never still for long, never done."""

        def play(handler: BaseHTTPRequestHandler, content: bytes) -> None:
            _send(handler, 200, b"", {"Content-Length": str(len(content))})
            for byte in content:
                handler.wfile.write(bytes([byte]))
                time.sleep(seconds)

        return play


def etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


@pytest.fixture
def site() -> Iterator[Site]:
    """An empty site, served until the test ends."""
    found = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # noqa: N802 - http.server's name
            found.busy += 1
            found.busiest = max(found.busiest, found.busy)
            found.asked.append((self.path, self.headers.get("Range", "")))
            try:
                _serve(self, found)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                found.busy -= 1

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", found.port), timeout=1)


def _serve(handler: BaseHTTPRequestHandler, site: Site) -> None:
    content = site.files.get(handler.path)
    if site.tricks.get(handler.path):
        site.tricks[handler.path].pop(0)(handler, content or b"")
        return
    if content is None:
        _send(handler, 404, b"gone", {"Content-Type": "text/html"})
        return
    headers = {"ETag": etag(content), "Content-Type": site.types.get(handler.path, "video/mp4")}
    span = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    if span is None or handler.headers.get("If-Range", etag(content)) != etag(content):
        _send(handler, 200, content, headers)
    elif (start := int(span[1])) >= len(content):
        _send(handler, 416, b"", {"Content-Range": f"bytes */{len(content)}"})
    else:
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        _send(handler, 206, content[start:], headers)


def _send(handler: BaseHTTPRequestHandler, code: int, body: bytes, headers: dict[str, str]) -> None:
    handler.send_response(code)
    for key, value in ({"Content-Length": str(len(body))} | headers).items():
        handler.send_header(key, value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real S3 server (JuiceFS' gateway) that checks credentials: user "someone", key "a-secret-key"."""
    folder = tmp_path_factory.mktemp("s3")
    juicefs, meta = str(Path(sys.executable).parent / "juicefs"), f"sqlite3://{folder}/meta.db"
    made = [juicefs, "format", "--storage", "file", "--bucket", f"{folder}/data/", "--trash-days", "0", meta, "my-s3"]
    subprocess.run(made, check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = ["--multi-buckets", "--keep-etag", "--no-banner", "--no-usage-report", "--cache-dir", f"{folder}/cache"]
    user = {"MINIO_ROOT_USER": "someone", "MINIO_ROOT_PASSWORD": "a-secret-key"}
    with (folder / "log").open("wb") as log:
        gateway = subprocess.Popen(
            [juicefs, "gateway", *flags, meta, address], stdout=log, stderr=log, env=os.environ | user
        )
    try:
        _wait_for(address, gateway, folder / "log")
        yield f"http://{address}"
    finally:
        gateway.terminate()
        gateway.wait(timeout=20)


def _wait_for(address: str, gateway: subprocess.Popen[bytes], log: Path) -> None:
    host, port = address.split(":")
    for _ in range(300):
        assert gateway.poll() is None, log.read_text()
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError(log.read_text())
