"""Captions of clips behind one interface; the embedded captioner takes the source table's own."""

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class CaptionRequest:
    """A clip that wants a caption, and what its source table calls it."""

    clip_id: str
    clip: Path
    table_caption: str


@dataclass(frozen=True)
class Caption:
    """The answer for one clip; empty where there is none."""

    clip_id: str
    text: str


class Captioner(Protocol):
    """Writes captions, in the order of the requests; many at once, as a server would be asked."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def caption_all(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]: ...


class TableCaptioner:
    """The source table's own caption, cleaned."""

    name = "table"
    version = "1"

    def caption_all(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]:
        """Each request's table caption after `clean_caption`."""
        for request in requests:
            yield Caption(request.clip_id, clean_caption(request.table_caption))


def captioner(name: str) -> Captioner:
    """The captioner called `name`. Raises ValueError listing the known."""
    known: dict[str, Captioner] = {TableCaptioner.name: TableCaptioner()}
    if name not in known:
        raise ValueError(f"unknown captioner {name!r}; the captioners are {', '.join(known)}")
    return known[name]


def clean_caption(text: str) -> str:
    """The caption as one line of plain text: entities and tags resolved, control characters and links removed."""
    text = unicodedata.normalize("NFKC", html.unescape(text))
    text = re.sub(r"<[^<>]*>|https?://\S+", " ", text)
    text = "".join(c if not unicodedata.category(c).startswith("C") else " " for c in text)
    return " ".join(text.split())
