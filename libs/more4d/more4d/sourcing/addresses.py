"""Which URLs may be asked: schemes, and hosts whose addresses are public; checked again where a connection is made."""

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Literal

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

Scheme = Literal["file", "https", "http", "s3"]
MAX_URL = 4096
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
_SECRET = re.compile(r"sig|token|key|secret|credential|auth|passw|^x-(amz|goog)-|policy|expires", re.IGNORECASE)


class FetchError(Exception):
    """A file that cannot be had; the message is the reason, without its address."""


class RefusedError(FetchError):
    """An address that must not be asked."""


@dataclass(frozen=True)
class Reach:
    """What may be reached: schemes, and hosts (`name` or `name:port`) that may lie in a private network."""

    schemes: frozenset[Scheme]
    allow_hosts: frozenset[str] = frozenset()

    def check_url(self, text: str) -> URL:
        """`text` as a URL that may be asked. Raises RefusedError saying what is wrong with it.

        The result is what the HTTP client connects to: two parsers would disagree about a hostile URL.
        """
        url = _parse(text)
        if url.scheme not in self.schemes:
            known = ", ".join(sorted(self.schemes)) or "none"
            raise RefusedError(f"refused: {url.scheme or 'no scheme'}:// is not among the allowed schemes ({known})")
        if url.scheme == "file":
            return url
        if not url.host:
            raise RefusedError("malformed URL: it names no host")
        if url.user is not None or url.password is not None:
            raise RefusedError("refused: the URL holds a user name or password")
        if url.scheme in ("http", "https"):
            self._check_literal(url)
        return url

    def allows_host(self, host: str, port: int | None) -> bool:
        """Whether the user named this host, so that it may be private."""
        return host in self.allow_hosts or f"{host}:{port}" in self.allow_hosts

    def check_address(self, address: str) -> None:
        """Raises RefusedError for an address that the public internet does not route."""
        if not is_public(address):
            raise RefusedError(
                f"refused: {address} is a private, loopback or link-local address; "
                "if it is meant, name its host in source.fetch.allow_hosts"
            )

    def _check_literal(self, url: URL) -> None:
        host = url.host or ""
        try:
            ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return  # A name: the resolver checks what it stands for.
        if not self.allows_host(host, url.port):
            self.check_address(host)


class GuardedResolver(AbstractResolver):
    """Resolves names to the very addresses that are then connected to, and refuses private ones.

    A name whose answer changes between a check and a connection gets nowhere: there is one answer, and it is checked.
    """

    def __init__(self, reach: Reach, inner: AbstractResolver) -> None:
        self.reach = reach
        self.inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The inner resolver's answer. Raises RefusedError where any address of it is not public, or `host` no name."""
        try:
            found = await self.inner.resolve(host, port, family)
        except UnicodeError as error:
            raise RefusedError("malformed URL: its host is no name that could be looked up") from error
        if not self.reach.allows_host(host, port):
            for answer in found:
                self.reach.check_address(answer["host"])
        return found

    async def close(self) -> None:
        """Closes the inner resolver."""
        await self.inner.close()


def is_public(address: str) -> bool:
    """Whether an IP address is routed on the public internet; an IPv4 address inside an IPv6 one counts as itself."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def redact(url: str) -> str:
    """`url` as it may be recorded: no user, no fragment, values that look like secrets replaced by '...'."""
    if not any(mark in url for mark in "@?#"):
        return url
    try:
        parsed = URL(url)
        if not parsed.scheme:
            return url
        query = [(key, "..." if _SECRET.search(key) else value) for key, value in parsed.query.items()]
        bare = parsed.with_user(None).with_fragment(None) if parsed.host else parsed.with_fragment(None)
        return str(bare.with_query(query)) if any(value == "..." for _, value in query) else str(bare)
    except ValueError:
        return re.sub(r"//[^/@]*@", "//", url.partition("?")[0])


def _parse(text: str) -> URL:
    if len(text) > MAX_URL:
        raise RefusedError(f"malformed URL: {len(text)} characters, above {MAX_URL}")
    if not text:
        raise RefusedError("malformed URL: it is empty")
    if _UNSAFE.search(text.replace(" ", "") if text.startswith("s3://") else text):
        raise RefusedError("malformed URL: it holds a space, a control character or a backslash")
    try:
        url = URL(text)
        _ = url.port, url.raw_host, url.user
    except (ValueError, TypeError) as error:
        raise RefusedError(f"malformed URL: {error}") from error
    return url
