"""A hub of this test run's own, and registries that name it."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from more4d.weights.registry import Weight

COMMIT = "c" * 40


@dataclass
class Hub:
    """What the server holds, how it misbehaves, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: int | None = None
    """Bytes after which an answer breaks off; what is asked next is refused."""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and range of each request."""
    tokens: list[str | None] = field(default_factory=list)
    refusing: bool = False

    def gets(self) -> list[str | None]:
        """The range of every GET."""
        return [asked_range for method, _, asked_range in self.asked if method == "GET"]


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            """Keep the tests' output clean."""

        def do_HEAD(self) -> None:
            """Answer with the headers that huggingface_hub asks for."""
            self._answer(body=False)

        def do_GET(self) -> None:
            """Answer with the file, or the part of it that is asked for."""
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            asked_range = self.headers.get("Range")
            hub.asked.append((self.command, self.path, asked_range))
            hub.tokens.append(self.headers.get("Authorization"))
            data = hub.files.get(self.path)
            if data is None or (body and hub.refusing):
                self.send_response(404 if data is None else 503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = int(asked_range.removeprefix("bytes=").rstrip("-")) if asked_range else 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self._send(data[start:])

        def _send(self, data: bytes) -> None:
            if hub.cut_after is None:
                self.wfile.write(data)
                return
            self.wfile.write(data[: hub.cut_after])
            hub.refusing, self.close_connection = True, True

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running hub, which HF_ENDPOINT names."""
    state = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


DATA = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(DATA).hexdigest()


def weight(**changes: Any) -> Weight:
    """A small weight on the hub."""
    given = {
        "name": "toy", "repository": "someone/toy", "layout": "other", "steps": ["views"], "licence": "MIT",
        "commercial": "yes", "presets": ["wan-14b"], "file": [{"path": "deep/toy.bin"}],
    }  # fmt: skip
    return Weight.model_validate(given | changes)


REGISTRY = """# A comment to keep.
[[weight]]
name = "toy"
repository = "someone/toy"
layout = "other"
presets = ["wan-14b"]
steps = ["views"]
licence = "MIT"
commercial = "yes"

[[weight.file]]
path = "deep/toy.bin"

# Another one.
[[weight]]
name = "forbidden"
repository = "someone/forbidden"
layout = "wan_dit"
network = "vism"
presets = ["wan-14b"]
steps = ["views"]
licence = "CC BY-NC 4.0"
commercial = "no"
terms = "non-commercial use alone"
replacement = "toy (MIT)"

[[weight.file]]
path = "model.safetensors"
"""


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """A registry of two weights, one of which may not be used commercially."""
    path = tmp_path / "weights.toml"
    path.write_text(REGISTRY)
    return path
