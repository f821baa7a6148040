"""Claims about more4d.data.safe_tar: each hostile archive is refused by name."""

import gzip
import io
import random
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from more4d.data.safe_tar import ArchiveError, ArchiveLimits, iter_members

LIMITS = ArchiveLimits(
    max_members=20, max_member_bytes=3_000_000, max_total_bytes=6_000_000, max_ratio=50, ratio_after_bytes=1_000_000
)


def _tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(data), target
    return info, data


def _lying() -> bytes:
    info = tarfile.TarInfo("0-49/a.txt")
    info.size = 2_000_000
    return info.tobuf() + b"short"


def _pax_bomb() -> bytes:
    info = tarfile.TarInfo("0-49/a.txt")
    info.type, info.size = tarfile.XHDTYPE, len(NOISE)
    return info.tobuf() + NOISE


def _many_headers() -> bytes:
    info = tarfile.TarInfo("0-49/x")
    info.type, info.size = tarfile.XHDTYPE, 0
    return info.tobuf() * 1900


def _damaged_header() -> bytes:
    whole = bytearray(_tar(_member("0-49/a.txt", b"one"), _member("0-49/b.txt", b"two")))
    whole[1024 + 150] ^= 0xFF
    return bytes(whole)


NOISE = random.Random(0).randbytes(2_900_000)
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "parent path": (lambda: _tar(_member("../evil.txt", b"x")), "leaves its folder"),
    "parent path inside": (lambda: _tar(_member("0-49/../../evil.txt", b"x")), "leaves its folder"),
    "absolute path": (lambda: _tar(_member("/etc/passwd", b"x")), "leaves its folder"),
    "backslashes": (lambda: _tar(_member("0-49\\..\\evil.txt", b"x")), "cannot be a name"),
    "control characters": (lambda: _tar(_member("0-49/a\x1b[2J.txt", b"x")), "cannot be a name"),
    "symbolic link": (
        lambda: _tar(_member("0-49/a.txt", kind=tarfile.SYMTYPE, target="/etc/passwd")),
        "neither a file",
    ),
    "hard link": (lambda: _tar(_member("0-49/a.txt", kind=tarfile.LNKTYPE, target="/etc/passwd")), "neither a file"),
    "character device": (lambda: _tar(_member("0-49/a.txt", kind=tarfile.CHRTYPE)), "neither a file"),
    "block device": (lambda: _tar(_member("0-49/a.txt", kind=tarfile.BLKTYPE)), "neither a file"),
    "named pipe": (lambda: _tar(_member("0-49/a.txt", kind=tarfile.FIFOTYPE)), "neither a file"),
    "duplicate": (lambda: _tar(_member("0-49/a.txt", b"1"), _member("0-49/a.txt", b"2")), "occurs twice"),
    "duplicate by dots": (lambda: _tar(_member("0-49/a.txt", b"1"), _member("0-49/./a.txt", b"2")), "occurs twice"),
    "too many": (lambda: _tar(*(_member(f"0-49/{n}.txt") for n in range(21))), "more than max_members=20"),
    "ratio bomb": (lambda: _tar(_member("0-49/a.txt", bytes(2_500_000))), "is a bomb"),
    "large member": (lambda: _tar(_member("0-49/a.txt", NOISE + NOISE)), "above max_member_bytes"),
    "large in all": (lambda: _tar(*(_member(f"0-49/{n}.txt", NOISE) for n in range(3))), "max_total_bytes"),
    "member shorter than it says": (_lying, "cut short or damaged"),
    "header bomb": (_pax_bomb, "headers of more than"),
    "endless headers": (_many_headers, "headers that no archive needs|is cut short|headers of more"),
    "damaged header": (_damaged_header, "header in its middle is damaged"),
    "no tar": (lambda: b"hello " * 500, "cut short or damaged"),
    "second archive behind the end": (lambda: _tar(_member("0-49/a.txt", b"1")) * 2, "goes on behind its end"),
}


def _read(data: bytes) -> dict[str, bytes]:
    return {str(path): content.read() for path, content in iter_members(io.BytesIO(data), "x.tar.gz", LIMITS)}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_by_name(name: str) -> None:
    make, reason = HOSTILE[name]
    with pytest.raises(ArchiveError, match=rf"x\.tar\.gz.*({reason})"):
        _read(gzip.compress(make()))


@pytest.mark.parametrize("damage", ["truncated gzip", "no gzip", "wrong sum", "empty"])
def test_damaged_gzips_are_refused_by_name(damage: str) -> None:
    whole = gzip.compress(_tar(_member("0-49/a.txt", NOISE[:50_000])))
    flipped = whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:]
    data = {"truncated gzip": whole[: len(whole) // 2], "no gzip": b"plain", "wrong sum": flipped, "empty": b""}[damage]
    with pytest.raises(ArchiveError, match=re.escape("x.tar.gz is cut short or damaged")):
        _read(data)


def test_a_sound_archive_is_read_member_by_member_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = _member("0-49/", kind=tarfile.DIRTYPE)
    data = _tar(folder, _member("0-49/a.txt", b"one"), _member("0-49/b (2).mp4", NOISE[:9999]))
    assert _read(gzip.compress(data)) == {"0-49/a.txt": b"one", "0-49/b (2).mp4": NOISE[:9999]}
    assert list(tmp_path.iterdir()) == []
