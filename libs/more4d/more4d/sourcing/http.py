"""One try at a file over HTTP: redirects checked hop by hop, bytes appended to what an earlier try left."""

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from more4d.sourcing.addresses import FetchError, GuardedResolver, Reach, RefusedError
from more4d.sourcing.limits import FetchLimits
from more4d.sourcing.store import Place

COPY_BLOCK = 2**20

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LATER = frozenset({408, 425, 429})


class TransientError(FetchError):
    """A failure that may pass; `retry_after` in seconds where the server said when to come back."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@asynccontextmanager
async def open_session(
    reach: Reach, limits: FetchLimits, resolver: AbstractResolver | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client that connects to checked addresses alone; `resolver` answers for names (default: the system's).

    Without proxies from the environment: behind one, the address that is connected to says nothing.
    """
    guarded = GuardedResolver(reach, resolver or aiohttp.ThreadedResolver())
    connector = aiohttp.TCPConnector(resolver=guarded, limit=limits.parallel, limit_per_host=limits.per_host)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_timeout, sock_read=limits.read_timeout)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False,
        headers={"Accept-Encoding": "identity", "User-Agent": "more4d"}, trust_env=False,
    ) as session:  # fmt: skip
        yield session


async def try_http(
    session: aiohttp.ClientSession, url: str, place: Place, reach: Reach, limits: FetchLimits, *, any_type: bool
) -> None:
    """Bring the part of `place` to its full length. Raises TransientError where a repetition may help, else FetchError."""
    try:
        async with asyncio.timeout(limits.total_timeout):
            await _follow(session, reach.check_url(url), place, reach, limits, any_type=any_type)
    except (TimeoutError, aiohttp.ServerTimeoutError) as error:
        raise TransientError("timed out") from error
    except (aiohttp.ClientSSLError, ssl.SSLError) as error:
        raise FetchError(f"TLS failed: {type(error).__name__}") from error
    except aiohttp.InvalidURL as error:
        raise RefusedError("malformed URL") from error
    except aiohttp.ClientConnectorDNSError as error:
        raise TransientError("the host's name does not resolve") from error
    except aiohttp.ClientPayloadError as error:
        raise TransientError("the connection was cut in the middle of the file") from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise TransientError(f"no answer: {type(error).__name__}") from error


async def _follow(
    session: aiohttp.ClientSession, url: URL, place: Place, reach: Reach, limits: FetchLimits, *, any_type: bool
) -> None:
    done, validator = place.begun()
    headers = {"Range": f"bytes={done}-", "If-Range": validator} if done else {}
    for _ in range(limits.max_redirects + 1):
        async with session.get(url, headers=headers, allow_redirects=False) as answer:
            if answer.status not in _REDIRECTS:
                await _take(answer, place, done, validator, limits, any_type=any_type)
                return
            url = reach.check_url(_target(answer))
    raise FetchError(f"more than {limits.max_redirects} redirects")


def _target(answer: aiohttp.ClientResponse) -> str:
    location = answer.headers.get("Location", "")
    try:
        return str(answer.url.join(URL(location)))
    except ValueError as error:
        raise RefusedError(f"malformed redirect: {error}") from error


async def _take(
    answer: aiohttp.ClientResponse, place: Place, done: int, validator: str, limits: FetchLimits, *, any_type: bool
) -> None:
    if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        _require_complete(answer, place, done)
        return
    _require_good(answer)
    if not (any_type or limits.takes_type(answer.content_type)) and "Content-Type" in answer.headers:
        raise FetchError(f"wrong type: served as {answer.content_type[:80]}")
    if (coding := answer.headers.get("Content-Encoding", "identity").lower()) != "identity":
        raise FetchError(f"wrong type: served with Content-Encoding {coding[:40]}, which was not asked for")
    if answer.status == HTTPStatus.PARTIAL_CONTENT:
        _require_continuation(answer, place, done, validator)
    else:
        # The whole file: the server knows no ranges, or has another version of it by now.
        done = 0
        place.begin(validator_of(answer))
    if done + (answer.content_length or 0) > limits.max_bytes:
        place.drop()
        raise FetchError(f"too large: above source.fetch.max_bytes={limits.max_bytes}")
    await _append(answer, place, done, limits)


def _require_complete(answer: aiohttp.ClientResponse, place: Place, done: int) -> None:
    """Nothing is left to send: right after a kill between the last byte and the renaming, else a lie about the length."""
    if not done or answer.headers.get("Content-Range", "") != f"bytes */{done}":
        place.drop()
        raise TransientError("HTTP 416: the file is not as long as the server said")


def _require_good(answer: aiohttp.ClientResponse) -> None:
    status = answer.status
    if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return
    reason = f"HTTP {status}"
    if status in _LATER or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise TransientError(reason, seconds_until(answer.headers.get("Retry-After", ""), time.time()))
    raise FetchError(reason)


def _require_continuation(answer: aiohttp.ClientResponse, place: Place, done: int, validator: str) -> None:
    """Refuse a piece that does not begin where ours ends, or that is of another version of the file."""
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if not done or span is None or int(span[1]) != done or validator_of(answer) not in ("", validator):
        place.drop()
        raise TransientError("the file changed while it was downloaded")


async def _append(answer: aiohttp.ClientResponse, place: Place, done: int, limits: FetchLimits) -> None:
    with place.part.open("ab") as part:
        async for piece in answer.content.iter_chunked(COPY_BLOCK):
            done += len(piece)
            if done > limits.max_bytes:
                place.drop()
                raise FetchError(f"too large: above source.fetch.max_bytes={limits.max_bytes}")
            part.write(piece)
            # Each piece is kept if the process dies at the next.
            part.flush()
    if not done:
        raise FetchError("empty: the file has no bytes")


def validator_of(answer: aiohttp.ClientResponse) -> str:
    """What If-Range may name this version by: a strong ETag, else the time of its last change, else nothing."""
    etag = answer.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return answer.headers.get("Last-Modified", "")


def seconds_until(retry_after: str, now: float) -> float:
    """Seconds of a Retry-After header, given as a number or as a date; 0 for anything else. `now` in Unix time."""
    if re.fullmatch(r"\d{1,9}", retry_after.strip()):
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return 0.0
