"""Claims about more4d.curation.llm.client, against a server that misbehaves in every way we could think of."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from more4d.asynchronous import completed
from more4d.curation.llm.cache import AnswerCache
from more4d.curation.llm.client import ChatClient
from more4d.curation.llm.errors import ServerDownError, ServerRefusedError, UnansweredError
from more4d.curation.llm.replies import Reply
from more4d.curation.llm.settings import ServerSettings

KEY = "sk-very-secret-0123456789"
QUESTION = [{"role": "user", "content": "how many dogs?"}]


def _ask(settings: ServerSettings, cache: AnswerCache, messages: list[dict[str, Any]] | None = None) -> Reply:
    async def ask() -> Reply:
        async with ChatClient(settings, cache) as client:
            return await client.reply(messages or QUESTION, prompt_version="p-1", schema={"type": "object"})

    return completed(ask())


def test_the_schema_and_every_setting_reach_the_server(chat: Any, settings: Any, cache: AnswerCache) -> None:
    reply = _ask(settings(max_tokens=77, temperature=0.5, seed=9, extra_body={"top_k": 3}), cache)
    assert reply == Reply(
        text='{"reason": "two dogs", "flag": true}', fault="", prompt_tokens=100, completion_tokens=10
    )
    body = chat.asked[0]
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"], body["top_k"]) == ("m", 77, 0.5, 9, 3)
    form = {"name": "answer", "schema": {"type": "object"}, "strict": True}
    assert body["response_format"] == {"type": "json_schema", "json_schema": form}


@pytest.mark.parametrize(("answers", "form"), [("json_object", {"type": "json_object"}), ("text", None)])
def test_servers_without_schemas_are_asked_for_less(
    chat: Any, settings: Any, cache: AnswerCache, answers: str, form: Any
) -> None:
    _ask(settings(answers=answers), cache)
    assert chat.asked[0].get("response_format") == form


def test_a_429_waits_as_long_as_the_server_says(chat: Any, settings: Any, answer_raw: Any, cache: AnswerCache) -> None:
    chat.script = [answer_raw(429, b"{}", {"Retry-After": "1"})]
    assert _ask(settings(), cache).fault == ""
    assert chat.times[1] - chat.times[0] >= 1


def _slow(handler: Any, body: dict[str, Any]) -> None:
    time.sleep(1.5)


def _drip(handler: Any, body: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(15):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.1)


def _cut_at_once(handler: Any, body: dict[str, Any]) -> None:
    handler.close_connection = True


FAULTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "server error": (lambda raw: raw(500, b"oops"), "status 500"),
    "overloaded": (lambda raw: raw(429, b"{}"), "status 429"),
    "slow": (lambda raw: _slow, "no answer in 0.5 s"),
    "dripping": (lambda raw: _drip, "no answer in 0.5 s"),
    "cut before the answer": (lambda raw: _cut_at_once, "Connection error"),
    "cut within the answer": (lambda raw: raw(200, b'{"choices": [', claim=500), "Connection error"),
    "a page instead": (lambda raw: raw(200, b"<html>busy</html>", {"Content-Type": "text/html"}), "no chat completion"),
    "no JSON": (lambda raw: raw(200, b'{"choices": [{"mess'), "no chat completion"),
    "no choice": (lambda raw: raw(200, b'{"choices": []}'), "choices: List should have at least 1 item"),
    "choices null": (lambda raw: raw(200, b'{"choices": null}'), "choices: Input should be a valid array"),
    "negative tokens": (
        lambda raw: raw(200, b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": -5}}'),
        "usage.prompt_tokens",
    ),
    "huge": (lambda raw: raw(200, b" " * 200_000), "above max_answer_bytes=100000"),
    "packed": (lambda raw: raw(200, b"\x1f\x8b", {"Content-Encoding": "gzip"}), "packed with gzip"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_is_no_answer_is_said_and_not_kept(
    chat: Any, settings: Any, answer_raw: Any, cache: AnswerCache, kind: str
) -> None:
    make, words = FAULTS[kind]
    chat.script = [make(answer_raw)]
    allowed = settings(timeout_s=0.5, retries=0, max_answer_bytes=100_000)
    with pytest.raises(UnansweredError, match=words):
        _ask(allowed, cache)
    assert _ask(allowed, cache).text
    assert len(chat.asked) == 2


@pytest.mark.parametrize("kind", ["server error", "slow", "cut before the answer", "cut within the answer"])
def test_a_passing_fault_is_tried_again(
    chat: Any, settings: Any, answer_raw: Any, cache: AnswerCache, kind: str
) -> None:
    chat.script = [FAULTS[kind][0](answer_raw)]
    assert _ask(settings(timeout_s=0.5), cache).text
    assert len(chat.asked) == 2


@pytest.mark.parametrize(("status", "hint"), [(401, "MY_KEY"), (403, "MY_KEY"), (404, "model=m"), (307, "base_url")])
def test_what_would_meet_every_question_stops_the_run(
    chat: Any, settings: Any, answer_raw: Any, cache: AnswerCache, status: int, hint: str, monkeypatch: Any
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    chat.script = [answer_raw(status, b"{}", {"Location": "http://127.0.0.1:9/"})]
    with pytest.raises(ServerRefusedError, match=f"status {status}.*{hint}"):
        _ask(settings(api_key_env="MY_KEY"), cache)
    assert len(chat.asked) == 1


def test_a_server_that_stays_down_ends_the_run(chat: Any, settings: Any, answer_raw: Any, cache: AnswerCache) -> None:
    chat.otherwise = answer_raw(503, b"")

    async def ask() -> None:
        async with ChatClient(settings(retries=0, max_failures=3), cache) as client:
            for number in range(3):
                with contextlib.suppress(UnansweredError):
                    await client.reply([{"role": "user", "content": str(number)}], prompt_version="p", schema=None)

    with pytest.raises(ServerDownError, match="3 questions in a row .* status 503"):
        completed(ask())


def test_the_same_question_at_the_same_time_is_asked_once(chat: Any, settings: Any, cache: AnswerCache) -> None:
    async def ask() -> list[Reply]:
        async with ChatClient(settings(), cache) as client:
            asking = (client.reply(QUESTION, prompt_version="p", schema=None) for _ in range(8))
            return await asyncio.gather(*asking)

    assert len(set(completed(ask()))) == 1
    assert len(chat.asked) == 1


def test_the_key_goes_to_the_server_and_nowhere_else(
    chat: Any, settings: Any, say: Any, answer_raw: Any, tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another")
    chat.script = [
        answer_raw(400, f"bad key {KEY}".encode()),
        say(f"your key is {KEY}"),
        say(None, refusal=f"no, {KEY}"),
    ]
    keyed, cache = settings(api_key_env="MY_KEY"), AnswerCache(tmp_path)
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(UnansweredError) as caught:
            _ask(keyed, cache)
        replies = [_ask(keyed, cache), _ask(keyed, cache, [{"role": "user", "content": "other"}])]
    assert set(chat.keys) == {f"Bearer {KEY}"}
    written = "".join(file.read_text() for file in tmp_path.rglob("*.json"))
    assert "your key is ***" in written
    assert KEY not in written + caplog.text + str(caught.value) + repr(caught.value.__cause__) + repr(replies)


def test_a_server_without_a_key_is_never_sent_the_one_for_openai(
    chat: Any, settings: Any, cache: AnswerCache, monkeypatch: Any
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    _ask(settings(), cache)
    assert chat.keys == ["Bearer none"]


def test_a_key_that_is_not_there_is_asked_for_by_name(settings: Any, cache: AnswerCache, monkeypatch: Any) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ValueError, match="environment variable MY_KEY"):
        _ask(settings(api_key_env="MY_KEY"), cache)


def test_faults_among_answers_do_not_end_the_run(
    chat: Any, settings: Any, say: Any, answer_raw: Any, cache: AnswerCache
) -> None:
    chat.script = [answer_raw(503, b""), answer_raw(503, b""), say("yes")] * 3

    async def ask() -> int:
        failed = 0
        async with ChatClient(settings(retries=0, max_failures=3), cache) as client:
            for number in range(9):
                try:
                    await client.reply([{"role": "user", "content": str(number)}], prompt_version="p", schema=None)
                except UnansweredError:
                    failed += 1
        return failed

    assert completed(ask()) == 6
