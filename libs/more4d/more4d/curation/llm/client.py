"""One question to the server and its reply: retries, deadlines, a size limit, the cache, and no key anywhere else."""

import asyncio
import logging
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self
from weakref import WeakValueDictionary

import httpx2
import openai

from more4d.curation.llm.cache import AnswerCache, question_key
from more4d.curation.llm.errors import (
    BudgetSpentError,
    NotACompletionError,
    ServerDownError,
    ServerRefusedError,
    UnansweredError,
)
from more4d.curation.llm.replies import Reply, read_reply
from more4d.curation.llm.settings import ServerSettings, api_key

log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 120.0
"""The longest Retry-After that the openai package waits for."""
_OF_THE_QUESTION = {400, 408, 409, 413, 422, 429}
"""Statuses that say something of this question or this moment; 5xx too. Others would meet every question."""


class ChatClient:
    """Asks one server; use as an async context manager. Raises ValueError where the key is not in the environment."""

    def __init__(self, settings: ServerSettings, cache: AnswerCache) -> None:
        self._settings, self._cache, self._key = settings, cache, api_key(settings)
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._failed_in_a_row = 0
        self.asked = 0
        """Questions that went to the server rather than to the cache."""
        self._cost = 0.0
        # It would write a line for each request.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        self._openai = openai.AsyncOpenAI(
            # Without a word here the package would send OPENAI_API_KEY to whatever server this is.
            api_key=self._key or "none",
            base_url=settings.base_url,
            max_retries=settings.retries,
            timeout=httpx2.Timeout(settings.timeout_s),
            # Refused encodings: a small body could unpack to a huge one. No redirects: the key is for this host alone.
            default_headers={"Accept-Encoding": "identity"},
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, event_hooks={"response": [self._bound]}),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._openai.close()

    async def reply(
        self, messages: list[dict[str, Any]], *, prompt_version: str, schema: dict[str, Any] | None
    ) -> Reply:
        """The server's reply to these messages, from the cache where it was given before.

        `schema` is a JSON schema for the answer, None for free text. Raises UnansweredError, ServerRefusedError,
        ServerDownError, BudgetSpentError.
        """
        request = self._request(messages, schema)
        key = question_key(prompt_version, request)
        lock = self._asking.setdefault(key, asyncio.Lock())
        async with lock:
            reply = await asyncio.to_thread(self._cache.get, key)
            if reply is None:
                self._within_budget()
                reply = await self._ask(request)
                self._cost += self._settings.prices.cost(reply.prompt_tokens, reply.completion_tokens)
                await asyncio.to_thread(self._cache.put, key, reply)
        return reply

    def _within_budget(self) -> None:
        limit = self._settings.max_cost
        if limit is not None and self._cost >= limit:
            raise BudgetSpentError(
                f"{self._settings.model} has cost {self._cost:g} in this run, max_cost={limit:g}; the answers so far "
                "are kept, raise max_cost and run again"
            )

    def _request(self, messages: list[dict[str, Any]], schema: dict[str, Any] | None) -> dict[str, Any]:
        settings = self._settings
        request = {
            "model": settings.model,
            "messages": messages,
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
            "extra_body": settings.extra_body,
        }
        if settings.seed is not None:
            request["seed"] = settings.seed
        if schema is not None and settings.answers == "json_schema":
            form = {"name": "answer", "schema": schema, "strict": True}
            request["response_format"] = {"type": "json_schema", "json_schema": form}
        elif schema is not None and settings.answers == "json_object":
            request["response_format"] = {"type": "json_object"}
        return request

    async def _ask(self, request: dict[str, Any]) -> Reply:
        self.asked += 1
        try:
            reply = await self._send(request)
        except UnansweredError as error:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= self._settings.max_failures:
                raise ServerDownError(
                    f"{self._failed_in_a_row} questions in a row to {self._settings.base_url} went unanswered, the last: "
                    f"{error}. The answers so far are kept; run again when the server is back"
                ) from error
            raise
        self._failed_in_a_row = 0
        return reply

    async def _send(self, request: dict[str, Any]) -> Reply:
        settings = self._settings
        # The package's own timeout is for a single read; a server that drips headers would never meet it.
        longest = (settings.timeout_s + _LONGEST_PAUSE_S) * (settings.retries + 1)
        try:
            async with asyncio.timeout(longest):
                answer = await self._openai.chat.completions.with_raw_response.create(**request)
            return self._without_key(read_reply(answer.content))
        except openai.APIStatusError as error:
            raise self._refusal(error) from None
        except openai.APITimeoutError:
            raise UnansweredError(f"no answer in {settings.timeout_s:g} s") from None
        except (openai.APIError, NotACompletionError) as error:
            raise UnansweredError(self._redact(_story(error))) from None
        except TimeoutError:
            raise UnansweredError(f"no whole answer in {longest:g} s") from None

    def _refusal(self, error: openai.APIStatusError) -> Exception:
        """What the status means; its body is the server's, and may well quote the key."""
        status = error.status_code
        said = f"status {status}: {self._redact(' '.join(str(error.message).split())[:300])}"
        if status in _OF_THE_QUESTION or status >= 500:
            return UnansweredError(said)
        settings = self._settings
        hint = {
            401: f"check the key in the environment variable {settings.api_key_env}",
            403: f"check the key in the environment variable {settings.api_key_env}",
            404: f"check base_url={settings.base_url} and model={settings.model}",
        }.get(status, f"check base_url={settings.base_url}")
        return ServerRefusedError(f"{settings.base_url} refuses with {said}; {hint}")

    def _without_key(self, reply: Reply) -> Reply:
        return reply.model_copy(update={"text": self._redact(reply.text), "fault": self._redact(reply.fault)})

    def _redact(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    async def _bound(self, response: httpx2.Response) -> None:
        """Before a body is read: it must come whole, as it is, within the time and size allowed."""
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise httpx2.ReadError(f"the answer is packed with {encoding}, which was not asked for")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Bounded(response.stream, self._settings.timeout_s, self._settings.max_answer_bytes)


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, seconds: float, limit: int) -> None:
        self._stream, self._seconds, self._limit = stream, seconds, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        deadline, size = asyncio.get_running_loop().time() + self._seconds, 0
        chunks = aiter(self._stream)
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise httpx2.ReadTimeout("the answer dripped") from None
            size += len(chunk)
            if size > self._limit:
                raise httpx2.ReadError(f"the answer is above max_answer_bytes={self._limit}")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


def _story(error: Exception) -> str:
    """The error with its cause: the package's own 'Connection error.' says little."""
    cause = error.__cause__
    parts = [str(error).strip(), *([f"{type(cause).__name__}: {cause}"] if cause is not None else [])]
    return " ".join(" ".join(parts).split())[:300]
