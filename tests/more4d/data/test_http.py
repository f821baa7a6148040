"""Claims about shards behind a real HTTP server."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from more4d.data.reader import TrajSceneDataset
from more4d.data.sample import Sample, encode_sample
from more4d.data.writer import write_shards


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, list[str | None]]]:
    """The address of `tmp_path` over HTTP, and the Range header of every request for a tar."""
    ranges: list[str | None] = []

    @web.middleware
    async def listen(request: web.Request, handler: Callable) -> web.StreamResponse:
        if request.path.endswith(".tar") and request.method == "GET":
            ranges.append(request.headers.get("Range"))
        return await handler(request)

    loop = asyncio.new_event_loop()
    app = web.Application(middlewares=[listen])
    app.router.add_static("/", tmp_path)
    runner = web.AppRunner(app)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> None:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()

    try:
        asyncio.run_coroutine_threadsafe(start(), loop).result()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", ranges
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_one_range_request_fetches_one_sample(
    served: tuple[str, list[str | None]], make_sample: Callable[..., Sample], tmp_path: Path
) -> None:
    url, ranges = served
    write_shards((make_sample(f"s-{n}", n) for n in range(3)), tmp_path, split="train", shard_bytes=10**9)
    dataset = TrajSceneDataset(url)
    assert dataset.read_files(1) == encode_sample(make_sample("s-1", 1))
    start = int(dataset.index.offset[1])
    assert ranges == [f"bytes={start}-{start + int(dataset.index.size[1]) - 1}"]
