"""Claims about more4d.sourcing.sniff."""

from pathlib import Path

import pytest
from more4d.sourcing.addresses import FetchError
from more4d.sourcing.sniff import require_media

BOX = b"\0\0\0\x20ftypisom"


@pytest.mark.parametrize(
    "head",
    [
        b"#EXTM3U\nfile:///etc/passwd", b"\xef\xbb\xbf#EXTM3U\n" + BOX, b"ffconcat version 1.0\nfile /etc/passwd",
        b"  <!DOCTYPE html>\xff\xfe" + BOX, b"<?xml version='1.0'?><MPD/>", "Bitte anmelden, für alle".encode() * 99,
        b"v=0\r\no=- 0 0 IN IP4 10.0.0.1", b"{}",
    ],
)  # fmt: skip
def test_text_that_would_be_opened_as_a_video_is_refused(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(head)
    with pytest.raises(FetchError, match="the file is text"):
        require_media(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    "head", [BOX, b"\x1aE\xdf\xa3\x9fB\x86", b"RIFF\x24\0\0\0AVI LIST", b"\0\0\x01\xba", b"OggS\0\x02", b"GIF89a\x01\0"]
)
def test_what_may_be_a_video_passes(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "a").write_bytes(head)
    require_media(tmp_path / "a")
