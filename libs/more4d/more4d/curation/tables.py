"""WebVid-style tables of videos: a row is a video's address and what is known about it."""

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from more4d.curation.layouts import SourceColumns
from more4d.curation.records import Record, iter_records
from more4d.data.packaged import packaged_clips
from more4d.sourcing.addresses import redact

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class SourceRow:
    """A row of the source stage's table. `duration` in seconds, 0 where it is not known."""

    videoid: str
    contentUrl: str  # noqa: N815 - WebVid's own name
    name: str
    duration: float
    page_dir: str
    origin: str
    licence: str
    attribution: str
    truth: str
    split: str
    source_table: str
    source_row: int
    begin: float = 0.0
    """In seconds of the file that was named; with `end` 0 the row is the whole of it."""
    end: float = 0.0


@dataclass(frozen=True)
class Candidate:
    """A row before its video is taken: where that is (a local file or a URL), or what is wrong with the row."""

    row: SourceRow
    file: Path | None = None
    url: str = ""
    problem: str = ""
    key: tuple[str, str] = ("", "")
    """Table and id as they were given; two rows with the same are one row too many."""
    sha256: str = ""
    """Of the file, where it is known."""


def read_source_table(
    path: Path, columns: SourceColumns, *, base: str = "", encoding: str = "utf-8", first_rows: int | None = None
) -> Iterator[Candidate]:
    """The rows of a CSV or Parquet table, one for each part that a row names, in order.

    An address that is no URL is relative to `base`: a folder, or an https:// or s3:// prefix; "" is the table's folder.
    Raises ValueError where the table cannot be read or lacks a column; what is wrong with a row is its problem.
    """
    for record in islice(iter_records(path, columns.wanted(), encoding), first_rows):
        yield from _candidates(path, record, columns, base or str(path.parent))


def packaged_rows(manifest: Path, folder: Path, names: tuple[str, ...] | None) -> list[Candidate]:
    """A row and a file for each clip of the packaged data in `folder`; `names` (file stems) takes some, None all.

    Raises ValueError where a name is not in the manifest.
    """
    clips = {Path(clip.path).stem: clip for clip in packaged_clips(manifest)}
    if unknown := sorted(set(names or ()) - set(clips)):
        raise ValueError(f"{manifest} lists no clip {', '.join(unknown)}, only {', '.join(clips)}")
    rows = []
    for number, (name, clip) in enumerate(clips.items()):
        if names is None or name in names:
            row = SourceRow(
                videoid=as_id(name), contentUrl=clip.path, name=clip.caption, duration=0.0, page_dir="packaged",
                origin="real", licence=clip.licence, attribution=clip.attribution, truth="", split="train",
                source_table=manifest.name, source_row=number,
            )  # fmt: skip
            rows.append(Candidate(row, folder / clip.path, key=(str(manifest), name)))
    return rows


def name_apart(candidates: Iterable[Candidate], taken: Iterable[str]) -> Iterator[Candidate]:
    """The candidates with ids of their own: none is in `taken`, no two are equal, whatever letters they lost.

    A second row with a table's same id is a problem of that row.
    """
    ids, keys = set(taken), dict[tuple[str, str], int]()
    for candidate in candidates:
        row = candidate.row
        if candidate.problem:
            yield candidate
            continue
        if candidate.key in keys:
            yield replace(candidate, problem=f"the same id as row {keys[candidate.key]} of {row.source_table}")
            continue
        keys[candidate.key] = row.source_row
        if row.videoid in ids:
            row = replace(row, videoid=_free_id(row, candidate.key[1], ids))
        ids.add(row.videoid)
        yield replace(candidate, row=row)


def _free_id(row: SourceRow, raw_id: str, ids: set[str]) -> str:
    """An id of the row's own, from what the table says alone: the same on another machine."""
    digests = (hashlib.sha256(f"{row.source_table}\n{raw_id}\n{n}".encode()).hexdigest()[:12] for n in count())
    return next(name for digest in digests if (name := f"{row.videoid[:47]}-{digest}") not in ids)


def locate(address: str, base: str) -> tuple[Path | None, str]:
    """The local file or the URL that `address` names, relative to `base` where it is no URL itself.

    Raises ValueError for a file:// URL of another machine.
    """
    if "://" not in address:
        if "://" in base and not base.startswith("file://"):
            # A key of S3 is taken letter by letter; a path of a web server is percent-encoded.
            rest = address.lstrip("/") if base.startswith("s3://") else quote(address.lstrip("/"), safe="/%")
            return None, f"{base.rstrip('/')}/{rest}"
        folder, _ = locate(base, "") if base.startswith("file://") else (Path(base), "")
        return (folder or Path()) / address, ""
    parts = urlsplit(address)
    if parts.scheme != "file":
        return None, address
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"file:// names another machine, {parts.netloc[:60]}")
    return Path(unquote(parts.path)), ""


def as_id(text: str) -> str:
    """`text` as a clip's id: letters, digits and '-'; other characters become '-'."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:60].strip("-") or "clip"


def parse_seconds(value: object) -> float | None:
    """Seconds of a number, of H:MM:SS.sss, or of WebVid's ISO form PT00H00M14S; None for anything else."""
    text = str(value if value is not None else "").strip()
    if iso := re.fullmatch(r"PT(?:(\d{1,6})H)?(?:(\d{1,6})M)?(?:(\d{1,6}(?:\.\d+)?)S)?", text, re.ASCII):
        hours, minutes, seconds = (float(part or 0) for part in iso.groups())
        return 3600 * hours + 60 * minutes + seconds
    if clock := re.fullmatch(r"(?:(\d{1,6}):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)", text, re.ASCII):
        return 3600 * float(clock[1] or 0) + 60 * float(clock[2]) + float(clock[3])
    return float(text) if re.fullmatch(r"\d{1,9}(\.\d+)?", text, re.ASCII) else None


def _candidates(path: Path, record: Record, columns: SourceColumns, base: str) -> Iterator[Candidate]:
    values = record.values
    raw_id = _raw_id(path, record, columns)
    address = _text(values.get("contentUrl"))
    row = SourceRow(
        videoid=as_id(raw_id), contentUrl=redact(address), name=_text(values.get("name")),
        duration=parse_seconds(values.get("duration")) or 0.0, page_dir=_text(values.get("page_dir")), origin="real",
        licence=_text(values.get("licence")) or "unknown", attribution=_text(values.get("attribution")), truth="",
        split="val" if values.get("split") == "val" else "train", source_table=path.name, source_row=record.number,
    )  # fmt: skip
    key = (str(path), raw_id)
    try:
        if record.problem:
            raise ValueError(record.problem)
        if not address:
            raise ValueError("no address: the row names no video")
        file, url = locate(str(values["contentUrl"]).strip(), base)
        parts = _parts(values, columns)
    except ValueError as error:
        yield Candidate(row, problem=str(error), key=key)
        return
    for number, (begin, end, caption) in enumerate(parts):
        problem = "" if caption or columns.name is None else "no caption"
        part = replace(row, name=caption, begin=begin, end=end, duration=end - begin if end else row.duration)
        if columns.timestamps is None:
            yield Candidate(part, file, url, problem, key)
        else:
            part = replace(part, videoid=f"{row.videoid[:54]}-{number:03d}")
            yield Candidate(part, file, url, problem, (key[0], f"{raw_id} {number}"))


def _raw_id(path: Path, record: Record, columns: SourceColumns) -> str:
    given = _text(record.values.get("videoid"))
    if columns.videoid == columns.contentUrl:
        given = PurePosixPath(given).stem
    return given or f"{path.stem}-{record.number}"


def _parts(values: dict[str, Any], columns: SourceColumns) -> list[tuple[float, float, str]]:
    """(begin, end, caption) of each part that a row names; end is 0 for a whole file. Raises ValueError."""
    if columns.timestamps is None:
        begin, end = _span(values.get("begin"), values.get("end"), columns)
        return [(begin, end, _text(values.get("name")))]
    spans = _list(values["timestamps"], columns.timestamps)
    captions = [""] * len(spans) if columns.name is None else _list(values["name"], columns.name)
    if not spans or len(spans) != len(captions):
        raise ValueError(f"{len(spans)} timestamps for {len(captions)} captions")
    if bad := [span for span in spans if not isinstance(span, list | tuple) or len(span) != 2]:
        raise ValueError(f"timestamps: {str(bad[0])[:60]} is not [begin, end]")
    return [(*_between(*span), _text(caption)) for span, caption in zip(spans, captions, strict=True)]


def _span(begin: object, end: object, columns: SourceColumns) -> tuple[float, float]:
    if columns.end is None and columns.begin is None:
        return 0.0, 0.0
    if columns.end is None:
        raise ValueError("timestamps: source.tables[].columns.begin is named, but no end")
    return _between(begin if columns.begin else 0, end)


def _between(begin: object, end: object) -> tuple[float, float]:
    first, last = parse_seconds(begin), parse_seconds(end)
    if first is None or last is None or last <= first:
        raise ValueError(f"timestamps: {str(begin)[:30]} to {str(end)[:30]} is no span of time")
    return first, last


def _list(value: object, column: str) -> list[Any]:
    """A list, or the text of one as Python and JSON write it. Raises ValueError."""
    try:
        found = ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"{column} is not a list: {str(value)[:60]}") from error
    if not isinstance(found, list | tuple):
        raise ValueError(f"{column} is not a list: {str(value)[:60]}")
    return list(found)


def _text(value: object) -> str:
    """A cell as one line of text: line breaks and control characters become spaces; NaN is none."""
    if value is None or value != value:
        return ""
    return " ".join(_CONTROL.sub(" ", str(value)).split())
