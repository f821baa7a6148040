"""Claims about more4d.sourcing.addresses."""

import socket

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from more4d.asynchronous import completed
from more4d.sourcing.addresses import GuardedResolver, Reach, RefusedError, is_public, redact

HTTPS = Reach(frozenset({"https"}))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "file:// is not among the allowed schemes"),
        ("FILE:///etc/passwd", "file:// is not among the allowed schemes"),
        ("ftp://example.com/a.mp4", "ftp:// is not among"),
        ("http://example.com/a.mp4", "http:// is not among"),
        ("s3://bucket/a.mp4", "s3:// is not among"),
        ("gopher://example.com/_x", "gopher:// is not among"),
        ("javascript:alert(1)", "is not among"),
        ("data:video/mp4;base64,AAAA", "is not among"),
        ("//example.com/a.mp4", "no scheme:// is not among"),
        ("=cmd|' /C calc'!A0", "malformed"),
        ("https://", "malformed"),
        ("https:///a.mp4", "malformed"),
        ("https://[::1/a.mp4", "malformed"),
        ("https://example.com:99999/a.mp4", "malformed"),
        ("https://example.com/a b.mp4", "malformed"),
        ("https://example.com/a\nHost: internal", "malformed"),
        ("https://good.example\\@169.254.169.254/", "malformed"),
        ("https://user:pass@example.com/a.mp4", "user name or password"),
        ("https://example.com/" + "a" * 5000, "malformed URL: 5020 characters"),
        ("", "empty"),
        ("https://127.0.0.1/a.mp4", "private, loopback or link-local"),
        ("https://169.254.169.254/latest/meta-data", "private, loopback or link-local"),
        ("https://[::1]/a.mp4", "private, loopback or link-local"),
        ("https://[::ffff:10.0.0.1]/a.mp4", "private, loopback or link-local"),
        ("https://[fe80::1%25eth0]/a.mp4", "private, loopback or link-local"),
        ("https://0.0.0.0/a.mp4", "private, loopback or link-local"),
    ],
)
def test_a_hostile_url_is_refused_with_its_reason(url: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        HTTPS.check_url(url)


def test_what_was_allowed_passes() -> None:
    reach = Reach(frozenset({"https", "http"}), frozenset({"127.0.0.1:81", "10.0.0.7"}))
    for url in ("https://example.com/a.mp4", "https://8.8.8.8/a", "http://127.0.0.1:81/a", "http://10.0.0.7:9/a"):
        assert str(reach.check_url(url)) == url
    with pytest.raises(RefusedError):
        reach.check_url("http://127.0.0.1:82/a")


@pytest.mark.parametrize(
    "address",
    [
        "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "127.8.8.8", "169.254.169.254", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fd00:ec2::254", "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::", "ff02::1",
    ],
)  # fmt: skip
def test_an_address_that_the_internet_does_not_route_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


class Answers(AbstractResolver):
    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        pass


def test_a_name_with_one_private_address_among_public_ones_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"192\.168\.0\.9 is a private"):
        completed(GuardedResolver(HTTPS, Answers("8.8.8.8", "192.168.0.9")).resolve("x.example", 443))


def test_a_named_host_may_be_private() -> None:
    reach = Reach(frozenset({"https"}), frozenset({"x.example"}))
    (found,) = completed(GuardedResolver(reach, Answers("192.168.0.9")).resolve("x.example", 443))
    assert found["host"] == "192.168.0.9"


@pytest.mark.parametrize(
    ("url", "recorded"),
    [
        ("https://u:p@h/a.mp4?Signature=x&v=1#t", "https://h/a.mp4?Signature=...&v=1"),
        ("https://h/a.mp4?v=1", "https://h/a.mp4?v=1"),
        ("clips/a b.mp4", "clips/a b.mp4"),
        ("https://u:p@[bad/a?token=1", "https://[bad/a"),
    ],
)
def test_what_is_recorded_of_an_address_holds_no_secret(url: str, recorded: str) -> None:
    assert redact(url) == recorded
