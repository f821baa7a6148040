"""What a file says of itself in its first bytes."""

import codecs
from pathlib import Path

from more4d.sourcing.addresses import FetchError

_HEAD = 512
_LISTS = (
    b"#extm3u",
    b"ffconcat",
    b"[playlist]",
    b"rtsp",
    b"v=0\r\n",
    b"<?xml",
    b"<smil",
    b"<mpd",
    b"<!doctype",
    b"<html",
)


def require_media(file: Path) -> None:
    """Raises FetchError for text: a web page, or a playlist that would make the decoder open other addresses."""
    with file.open("rb") as stream:
        head = stream.read(_HEAD)
    if not head:
        raise FetchError("empty: the file has no bytes")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(_LISTS) or _is_text(head):
        raise FetchError("wrong type: the file is text (a web page or a playlist), not a video")


def _is_text(head: bytes) -> bool:
    try:
        # Not final: the last letter may be cut in two.
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return not any(ord(c) < 9 or 13 < ord(c) < 32 or c == "\x7f" for c in text)
