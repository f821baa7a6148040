"""Claims about more4d.sourcing.fetch, against a real server that misbehaves."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given, settings
from hypothesis import strategies as st
from more4d.sourcing.addresses import Reach
from more4d.sourcing.fetch import fetch_all
from more4d.sourcing.limits import FetchLimits
from more4d.sourcing.store import Fetched, place_of

CONTENT = bytes(range(256)) * 4000
LOCAL = Reach(frozenset({"http"}), frozenset({"127.0.0.1"}))
QUICK = {"backoff": 0.01, "attempts": 3, "read_timeout": 0.5, "connect_timeout": 1.0, "total_timeout": 3.0}


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., Fetched]:
    """Fetches one URL into the test's folder; keywords change the limits."""

    def one(url: str, reach: Reach = LOCAL, **limits: Any) -> Fetched:
        return fetch_all([url], tmp_path, reach=reach, limits=FetchLimits.model_validate(QUICK | limits))[url]

    return one


def _is_whole(found: Fetched, content: bytes = CONTENT) -> bool:
    assert found.file is not None, found.reason
    facts = (found.sha256, found.bytes, found.reason)
    return found.file.read_bytes() == content and facts == (hashlib.sha256(content).hexdigest(), len(content), "")


def test_a_file_is_had_with_its_hash_and_size(site: Any, fetch: Callable[..., Fetched]) -> None:
    assert _is_whole(fetch(site.add("/a.mp4", CONTENT)))


def test_a_file_that_was_had_is_not_asked_for_again(site: Any, fetch: Callable[..., Fetched]) -> None:
    url = site.add("/a.mp4", CONTENT)
    assert fetch(url) == fetch(url)
    assert len(site.asked) == 1


def test_a_cut_connection_is_continued_where_it_was_cut(site: Any, fetch: Callable[..., Fetched]) -> None:
    url = site.add("/a.mp4", CONTENT, site.cut(400_000), site.status(500))
    assert _is_whole(fetch(url))
    first, *later = site.ranges("/a.mp4")
    # What of the cut piece had arrived is for the kernel to say; what was asked for next must follow from it.
    assert first == ""
    assert later == ["bytes=400000-"] * 2


def test_a_server_without_ranges_gives_the_whole_file_again(site: Any, fetch: Callable[..., Fetched]) -> None:
    whole = site.answer(200, CONTENT, {"Content-Type": "video/mp4"})
    assert _is_whole(fetch(site.add("/a.mp4", CONTENT, site.cut(300_000), whole)))
    assert site.ranges("/a.mp4")[1].startswith("bytes=")


def test_a_file_that_changes_between_two_tries_is_taken_whole_in_its_new_version(
    site: Any, fetch: Callable[..., Fetched]
) -> None:
    new = CONTENT[::-1]
    url = site.add("/a.mp4", CONTENT, site.cut(300_000))

    def cut_then_change(handler: Any, content: bytes) -> None:
        site.cut(300_000)(handler, content)
        site.files["/a.mp4"] = new

    site.tricks["/a.mp4"] = [cut_then_change]
    assert _is_whole(fetch(url), new)
    # The server was told which version we have: it sent the new one at once.
    assert len(site.asked) == 2


def test_a_server_that_joins_two_versions_is_not_believed(site: Any, fetch: Callable[..., Fetched]) -> None:
    span = {"Content-Range": f"bytes 300000-{len(CONTENT) - 1}/{len(CONTENT)}", "ETag": '"another"'}
    mixed = site.answer(206, CONTENT[300_000:], span | {"Content-Type": "video/mp4"})
    found = fetch(site.add("/a.mp4", CONTENT, *[site.cut(300_000), mixed] * 2), attempts=4)
    assert found.reason == "the file changed while it was downloaded"


def test_a_piece_that_begins_elsewhere_is_not_appended(site: Any, fetch: Callable[..., Fetched]) -> None:
    wrong = site.answer(206, CONTENT[5:], {"Content-Range": f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}"})
    assert _is_whole(fetch(site.add("/a.mp4", CONTENT, site.cut(300_000), wrong)))


@pytest.mark.parametrize("as_date", [False, True])
def test_a_server_that_says_when_to_come_back_is_left_alone_until_then(
    site: Any, fetch: Callable[..., Fetched], as_date: bool
) -> None:
    when = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
    url = site.add("/a.mp4", CONTENT, site.status(429, Retry_After=when))
    started = time.monotonic()
    assert _is_whole(fetch(url))
    assert time.monotonic() - started > 0.9


def test_a_server_that_asks_for_too_long_a_rest_gets_a_verdict(site: Any, fetch: Callable[..., Fetched]) -> None:
    url = site.add("/a.mp4", CONTENT, site.status(503, Retry_After="3600"))
    assert fetch(url).reason == "HTTP 503: asked to wait 3600 s, above source.fetch.max_wait=120"
    assert len(site.asked) == 1


def test_server_errors_are_tried_again_and_then_a_verdict(site: Any, fetch: Callable[..., Fetched]) -> None:
    assert _is_whole(fetch(site.add("/a.mp4", CONTENT, site.status(500), site.status(502))))
    assert fetch(site.add("/b.mp4", CONTENT, *[site.status(500)] * 3)).reason == "HTTP 500"
    assert len(site.ranges("/b.mp4")) == 3


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 451])
def test_what_will_not_pass_is_asked_for_once(site: Any, fetch: Callable[..., Fetched], code: int) -> None:
    assert fetch(site.add("/a.mp4", CONTENT, site.status(code))).reason == f"HTTP {code}"
    assert len(site.asked) == 1


def test_a_length_that_is_claimed_and_never_reached_is_a_verdict(site: Any, fetch: Callable[..., Fetched]) -> None:
    def lie(handler: Any, content: bytes) -> None:
        handler.close_connection = True
        site.answer(200, content, {"Content-Length": str(len(content) + 9), "ETag": '"x"'})(handler, content)

    found = fetch(site.add("/a.mp4", CONTENT, *[lie] * 3))
    assert (found.file, found.reason) == (None, "the connection was cut in the middle of the file")


def test_silence_and_dripping_end_in_a_verdict(site: Any, fetch: Callable[..., Fetched]) -> None:
    silent = site.add("/a.mp4", CONTENT, site.after(1.2, site.status(200)))
    assert fetch(silent, attempts=1).reason == "timed out"
    dripping = site.add("/b.mp4", CONTENT, site.drip(0.1))
    assert fetch(dripping, attempts=1, total_timeout=0.6).reason == "timed out"


def test_what_is_too_large_is_refused_by_its_claim_or_by_its_bytes(
    site: Any, fetch: Callable[..., Fetched], tmp_path: Path
) -> None:
    assert fetch(site.add("/a.mp4", CONTENT), max_bytes=1000).reason == "too large: above source.fetch.max_bytes=1000"

    def endless(handler: Any, content: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")

    assert "too large" in fetch(site.add("/b.mp4", CONTENT, endless), max_bytes=200_000).reason
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_was_had_under_a_looser_limit_is_too_large_under_a_tighter(
    site: Any, fetch: Callable[..., Fetched]
) -> None:
    url = site.add("/a.mp4", CONTENT)
    assert fetch(url).file and "too large" in fetch(url, max_bytes=1000).reason


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"Content-Type": "text/html; charset=utf-8"}, "wrong type: served as text/html"),
        ({"Content-Type": "application/x-mpegURL"}, "wrong type: served as application/x-mpegURL"),
        ({"Content-Type": "video/mp4", "Content-Encoding": "gzip"}, "wrong type: served with Content-Encoding gzip"),
    ],
)
def test_what_is_served_as_something_else_is_a_verdict(
    site: Any, fetch: Callable[..., Fetched], headers: dict[str, str], reason: str
) -> None:
    found = fetch(site.add("/a.mp4", CONTENT, site.answer(200, b"x" * 99, headers)))
    assert found.reason.lower().startswith(reason.lower())


def test_an_empty_file_is_a_verdict(site: Any, fetch: Callable[..., Fetched]) -> None:
    assert fetch(site.add("/a.mp4", b"")).reason == "empty: the file has no bytes"


def test_redirects_are_followed_so_far(site: Any, fetch: Callable[..., Fetched]) -> None:
    site.add("/b.mp4", CONTENT)
    assert _is_whole(fetch(site.add("/a.mp4", b"", site.status(302, Location="/b.mp4"))))
    loop = site.add("/c.mp4", b"", *[site.status(301, Location="/c.mp4")] * 9)
    assert fetch(loop).reason == "more than 5 redirects"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254 is a private, loopback or link-local"),
        ("http://[::1]/x", "::1 is a private, loopback or link-local"),
        ("http://localhost:PORT/b.mp4", "is a private, loopback or link-local"),
        ("file:///etc/passwd", "file:// is not among the allowed schemes"),
        ("https://127.0.0.1/x", "https:// is not among the allowed schemes"),
        ("http://u:p@127.0.0.1:PORT/b.mp4", "user name or password"),
        ("http://[bad", "malformed"),
    ],
)
def test_a_redirect_leads_nowhere_that_a_row_may_not_name(
    site: Any, fetch: Callable[..., Fetched], target: str, reason: str
) -> None:
    site.add("/b.mp4", CONTENT)
    found = fetch(site.add("/a.mp4", b"", site.status(302, Location=target.replace("PORT", str(site.port)))))
    assert reason in found.reason
    assert [path for path, _ in site.asked] == ["/a.mp4"]


def test_a_private_server_is_not_reached_unless_it_was_named(site: Any, fetch: Callable[..., Fetched]) -> None:
    url = site.add("/a.mp4", CONTENT)
    assert "private, loopback" in fetch(url, reach=Reach(frozenset({"http"}))).reason
    assert "private, loopback" in fetch(url.replace("127.0.0.1", "localhost"), reach=Reach(frozenset({"http"}))).reason
    assert not site.asked


class _Rebinding(AbstractResolver):
    """A name that is public when it is looked up first, and this machine from then on."""

    def __init__(self) -> None:
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        address = "192.0.0.9" if self.asked == 1 else "127.0.0.1"  # An anycast address: public, and nobody is there.
        return [ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


def test_a_name_that_changes_its_address_reaches_no_private_one(site: Any, tmp_path: Path) -> None:
    url = site.add("/a.mp4", CONTENT).replace("127.0.0.1", "rebinding.example")
    resolver = _Rebinding()
    limits = FetchLimits.model_validate(QUICK | {"connect_timeout": 0.3})
    # More tries than the resolver's answer is remembered for would need ten seconds: the name is asked for anew.
    for _ in range(2):
        found = fetch_all([url], tmp_path, reach=Reach(frozenset({"http"})), limits=limits, resolver=resolver)[url]
    assert resolver.asked >= 2
    assert "127.0.0.1 is a private, loopback" in found.reason
    assert not site.asked


def test_a_name_that_does_not_resolve_and_a_closed_port_are_verdicts(fetch: Callable[..., Fetched]) -> None:
    assert fetch("http://nowhere.invalid/a.mp4").reason == "the host's name does not resolve"
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/a").reason == "no answer: ClientConnectorError"


@pytest.mark.parametrize(
    "host", ["a" * 70 + ".example", "a..example", ".", "xn--zzzzz99999", "-", "%00", "127.1", "0x7f.1"]
)
def test_a_host_that_is_no_name_is_a_verdict(fetch: Callable[..., Fetched], host: str) -> None:
    found = fetch(f"http://{host}/a.mp4", reach=Reach(frozenset({"http"})), attempts=1)
    assert found.reason


class _Nobody(AbstractResolver):
    """Knows no name."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        raise OSError("no such name")

    async def close(self) -> None:
        pass


@given(text=st.text(max_size=60), prefix=st.sampled_from(["", "http://", "https://h/", "s3://", "http://h:1/%", "//"]))
@settings(max_examples=150, deadline=None)
def test_no_text_in_place_of_an_address_raises_anything(text: str, prefix: str) -> None:
    url, limits = prefix + text, FetchLimits(attempts=1, connect_timeout=0.2, total_timeout=0.5)
    reach = Reach(frozenset({"http", "https"}))
    assert fetch_all([url], Path("/nonexistent"), reach=reach, limits=limits, resolver=_Nobody())[url].reason


def test_a_server_that_speaks_no_tls_is_a_verdict(site: Any, fetch: Callable[..., Fetched]) -> None:
    url = site.add("/a.mp4", CONTENT).replace("http://", "https://")
    found = fetch(url, reach=Reach(frozenset({"https"}), frozenset({"127.0.0.1"})))
    assert found.reason.startswith("TLS failed")


def test_a_host_is_asked_for_no_more_at_once_than_allowed(site: Any, tmp_path: Path) -> None:
    urls = [site.add(f"/{i}.mp4", CONTENT, site.after(0.05, site.answer(200, CONTENT, {}))) for i in range(12)]
    limits = FetchLimits.model_validate(QUICK | {"per_host": 3})
    found = fetch_all(urls, tmp_path, reach=LOCAL, limits=limits)
    assert all(map(_is_whole, found.values()))
    assert site.busiest == 3


def test_one_bad_file_spoils_no_other_and_an_address_is_asked_for_once(site: Any, tmp_path: Path) -> None:
    good, gone = site.add("/a.mp4", CONTENT), site.url("/gone.mp4")
    urls = [gone, "http://[", good, good, ""]
    found = fetch_all(urls, tmp_path, reach=LOCAL, limits=FetchLimits.model_validate(QUICK))
    assert list(map(bool, (found[url].reason for url in urls))) == [True, True, False, False, True]
    assert len(site.ranges("/a.mp4")) == 1


def test_a_kill_between_the_last_byte_and_the_renaming_costs_no_byte(site: Any, tmp_path: Path) -> None:
    url = site.add("/a.mp4", CONTENT, site.cut(len(CONTENT) - 1))
    fetch_all([url], tmp_path, reach=LOCAL, limits=FetchLimits.model_validate(QUICK | {"attempts": 1}))
    with place_of(tmp_path, url).part.open("ab") as part:
        part.write(CONTENT[-1:])
    found = fetch_all([url], tmp_path, reach=LOCAL, limits=FetchLimits.model_validate(QUICK))[url]
    assert _is_whole(found)
    assert site.ranges("/a.mp4")[1:] == [f"bytes={len(CONTENT)}-"]


SCRIPT = """
import sys
from pathlib import Path
from more4d.sourcing.addresses import Reach
from more4d.sourcing.fetch import fetch_all
from more4d.sourcing.limits import FetchLimits
reach = Reach(frozenset({"http"}), frozenset({"127.0.0.1"}))
fetch_all(sys.argv[2:], Path(sys.argv[1]), reach=reach, limits=FetchLimits(per_host=1))
"""


def test_killed_in_the_middle_it_asks_for_nothing_twice(site: Any, tmp_path: Path) -> None:
    def half(handler: Any, content: bytes) -> None:
        site.answer(200, content[:500_000], {"Content-Length": str(len(content)), "ETag": etag})(handler, content)
        time.sleep(60)

    etag = f'"{hashlib.sha256(CONTENT).hexdigest()[:16]}"'
    urls = [site.add("/a.mp4", CONTENT), site.add("/b.mp4", CONTENT, half), site.add("/c.mp4", CONTENT)]
    child = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path), *urls], stderr=subprocess.DEVNULL)
    part = place_of(tmp_path, urls[1]).part
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size == 500_000):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    found = fetch_all(urls, tmp_path, reach=LOCAL, limits=FetchLimits.model_validate(QUICK))
    assert all(map(_is_whole, found.values()))
    assert site.asked == [("/a.mp4", ""), ("/b.mp4", ""), ("/b.mp4", "bytes=500000-"), ("/c.mp4", "")]
