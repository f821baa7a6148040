"""A chat server of this test run's own that answers, or misbehaves, as it is told."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from more4d.curation.llm.cache import AnswerCache
from more4d.curation.llm.settings import ServerSettings

YES = '{"reason": "two dogs", "flag": true}'
Behaviour = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    """Does with each request what the chat's script says next, and what `otherwise` says after that."""

    protocol_version = "HTTP/1.1"
    chat: "Chat"

    def log_message(self, *args: Any) -> None:
        """Keep the tests' output clean."""

    def do_POST(self) -> None:
        """A question."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.chat.lock:
            self.chat.asked.append(body)
            self.chat.keys.append(self.headers.get("Authorization"))
            self.chat.times.append(time.monotonic())
            self.chat.now += 1
            self.chat.most_at_once = max(self.chat.most_at_once, self.chat.now)
            behaviour = self.chat.script.pop(0) if self.chat.script else self.chat.otherwise
        try:
            behaviour(self, body)
        except OSError:
            self.close_connection = True
        finally:
            with self.chat.lock:
                self.chat.now -= 1

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None, claim: int = 0) -> None:
        """An answer that claims `claim` bytes more than it has."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) + claim))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        self.close_connection = bool(claim)


@dataclass
class Chat:
    """What the server does, and what it saw."""

    script: list[Behaviour] = field(default_factory=list)
    otherwise: Behaviour = lambda handler, body: says(YES)(handler, body)  # noqa: E731 - a default
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    now: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""


def says(text: str | None, *, finish: str = "stop", refusal: str | None = None, usage: Any = None) -> Behaviour:
    """A completion with this text; 100 prompt tokens and 10 of completion."""
    tokens = {"prompt_tokens": 100, "completion_tokens": 10} if usage is None else usage
    message = {"role": "assistant", "content": text, "refusal": refusal}
    completion = {"id": "1", "choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": tokens}
    return raw(200, json.dumps(completion).encode())


def raw(status: int, body: bytes, headers: dict[str, str] | None = None, claim: int = 0) -> Behaviour:
    """An answer of these very bytes."""
    return lambda handler, _: handler.send(status, body, {"Content-Type": "application/json"} | (headers or {}), claim)


@pytest.fixture
def say() -> Callable[..., Behaviour]:
    """Makes completions for the script."""
    return says


@pytest.fixture
def answer_raw() -> Callable[..., Behaviour]:
    """Makes any other answers for the script."""
    return raw


@pytest.fixture
def chat() -> Iterator[Chat]:
    """A chat server on 127.0.0.1; its script is empty, so it says yes to everything."""
    chat = Chat()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"chat": chat}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    chat.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    yield chat
    server.shutdown()
    server.server_close()


@pytest.fixture
def settings(chat: Chat) -> Callable[..., ServerSettings]:
    """Settings for that server, with changes."""
    given = {"base_url": chat.url, "model": "m", "timeout_s": 5, "retries": 1, "concurrency": 2}
    return lambda **changes: ServerSettings.model_validate(given | changes)


@pytest.fixture
def cache(tmp_path: Path) -> AnswerCache:
    """An empty cache."""
    return AnswerCache(tmp_path / "answers")
