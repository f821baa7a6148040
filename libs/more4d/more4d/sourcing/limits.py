"""How hard other people's servers are asked, and what is taken from them."""

from fnmatch import fnmatchcase

from pydantic import Field

from more4d.settings import Section


class FetchLimits(Section):
    """Bounds of a download. Times in seconds; `attempts` counts the first."""

    parallel: int = Field(gt=0, default=16)
    per_host: int = Field(gt=0, default=4)
    attempts: int = Field(gt=0, default=4)
    backoff: float = Field(ge=0, default=1.0)
    """Before the first repetition; doubled for each other one, with jitter."""
    max_wait: float = Field(gt=0, default=120.0)
    """A server that asks to be left alone for longer is not waited for."""
    connect_timeout: float = Field(gt=0, default=15.0)
    read_timeout: float = Field(gt=0, default=30.0)
    """Between two pieces of a body."""
    total_timeout: float = Field(gt=0, default=900.0)
    """Of one attempt; what came is kept for the next."""
    max_bytes: int = Field(gt=0, default=2 * 10**9)
    max_redirects: int = Field(ge=0, default=5)
    allow_hosts: tuple[str, ...] = ()
    """Hosts (`name` or `name:port`) that may have a private address."""
    content_types: tuple[str, ...] = (
        "video/*", "image/gif", "application/octet-stream", "binary/octet-stream", "application/mp4", "application/ogg",
    )  # fmt: skip
    """Patterns of the types that a clip may be served as; a server that names none is believed."""
    s3_anonymous: bool = False
    """Public buckets without credentials; else s3fs finds them where the AWS tools do."""

    def takes_type(self, content_type: str) -> bool:
        """Whether a clip may be served as this media type."""
        return any(fnmatchcase(content_type.lower(), pattern) for pattern in self.content_types)
