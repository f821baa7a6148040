"""Many files at once: bounded in number, over all and for each host, repeated with patience, never fetched twice."""

import asyncio
from collections.abc import Iterable
from functools import cached_property
from itertools import islice
from pathlib import Path

import aiohttp
import fsspec
from aiohttp.abc import AbstractResolver
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential
from tqdm import tqdm
from yarl import URL

from more4d.asynchronous import completed
from more4d.sourcing.addresses import FetchError, Reach
from more4d.sourcing.http import TransientError, open_session, try_http
from more4d.sourcing.limits import FetchLimits
from more4d.sourcing.objects import open_s3, try_s3
from more4d.sourcing.store import Fetched, Place, place_of

_WAITING_PER_SLOT = 16


def fetch_all(
    urls: Iterable[str],
    folder: Path,
    *,
    reach: Reach,
    limits: FetchLimits,
    resolver: AbstractResolver | None = None,
    any_type: bool = False,
) -> dict[str, Fetched]:
    """For each of the URLs (https, http, s3) its file in `folder`, or the reason why it cannot be had.

    A file that a former run had is not asked for again; one that it had begun is continued. `any_type` takes what is
    not served as a video. Nothing is raised for a single file.
    """
    unique = list(dict.fromkeys(urls))
    if not unique:
        return {}
    return completed(_Fetching(folder, reach, limits, any_type).run(unique, resolver))


class _Host:
    """A host's slots, and until when it asked to be left alone (the event loop's time)."""

    def __init__(self, slots: int) -> None:
        self.slots = asyncio.Semaphore(slots)
        self.quiet_until = 0.0

    async def wait(self) -> None:
        await asyncio.sleep(max(0.0, self.quiet_until - asyncio.get_running_loop().time()))

    def rest(self, seconds: float) -> None:
        self.quiet_until = max(self.quiet_until, asyncio.get_running_loop().time() + seconds)


class _Fetching:
    def __init__(self, folder: Path, reach: Reach, limits: FetchLimits, any_type: bool) -> None:
        self.folder, self.reach, self.limits, self.any_type = folder, reach, limits, any_type
        self.hosts: dict[str, _Host] = {}
        self.slots = asyncio.Semaphore(limits.parallel)

    @cached_property
    def s3(self) -> fsspec.AbstractFileSystem:
        return open_s3(self.limits)

    async def run(self, urls: list[str], resolver: AbstractResolver | None) -> dict[str, Fetched]:
        found: dict[str, Fetched] = {}
        waiting = iter(urls)
        running: dict[asyncio.Task[Fetched], str] = {}
        async with open_session(self.reach, self.limits, resolver) as session:
            with tqdm(total=len(urls), desc="downloads", unit="file", mininterval=0.5) as bar:
                while True:
                    room = self.limits.parallel * _WAITING_PER_SLOT - len(running)
                    running |= {asyncio.create_task(self._one(session, url)): url for url in islice(waiting, room)}
                    if not running:
                        return found
                    done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        found[running.pop(task)] = task.result()
                        bar.update()

    async def _one(self, session: aiohttp.ClientSession, url: str) -> Fetched:
        """The file of one URL; its reason where it cannot be had."""
        try:
            checked = self.reach.check_url(url)
            place = place_of(self.folder, url)
            if (had := await asyncio.to_thread(place.had)) is not None:
                return self._within_limit(had)
            host = self.hosts.setdefault(f"{checked.scheme}://{checked.host}", _Host(self.limits.per_host))
            # Held while waiting for the next try: a host that has enough of us gets fewer of us.
            async with host.slots:
                await self._repeatedly(session, checked, url, place, host)
            return await asyncio.to_thread(place.finish)
        except FetchError as error:
            return Fetched(None, reason=str(error))

    def _within_limit(self, had: Fetched) -> Fetched:
        if had.bytes > self.limits.max_bytes:
            raise FetchError(f"too large: {had.bytes} bytes, above source.fetch.max_bytes={self.limits.max_bytes}")
        return had

    async def _repeatedly(
        self, session: aiohttp.ClientSession, checked: URL, url: str, place: Place, host: _Host
    ) -> None:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(TransientError), stop=stop_after_attempt(self.limits.attempts),
            wait=self._wait, reraise=True,
        ):  # fmt: skip
            with attempt:
                await host.wait()
                async with self.slots:
                    try:
                        await self._attempt(session, checked, url, place)
                    except TransientError as error:
                        self._be_patient(error, host)
                        raise

    async def _attempt(self, session: aiohttp.ClientSession, checked: URL, url: str, place: Place) -> None:
        if checked.scheme == "s3":
            await asyncio.to_thread(try_s3, self.s3, url, place, self.limits)
        else:
            await try_http(session, url, place, self.reach, self.limits, any_type=self.any_type)

    def _be_patient(self, error: TransientError, host: _Host) -> None:
        if error.retry_after > self.limits.max_wait:
            raise FetchError(
                f"{error}: asked to wait {error.retry_after:.0f} s, above source.fetch.max_wait={self.limits.max_wait:g}"
            ) from error
        if error.retry_after:
            host.rest(error.retry_after)

    def _wait(self, state: RetryCallState) -> float:
        """Seconds before the next try: random, up to a bound that doubles (full jitter)."""
        return wait_random_exponential(multiplier=self.limits.backoff, max=self.limits.max_wait)(state)
