"""WebVid-style tables of videos: a row is a video's address and what is known about it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from more4d.data.packaged import packaged_clips
from more4d.settings import Section


class SourceColumns(Section):
    """What a table calls its columns; a column that it lacks may be null, then `default` values apply."""

    videoid: str | None = "videoid"
    contentUrl: str = "contentUrl"  # noqa: N815 - WebVid's own name
    name: str = "name"
    duration: str | None = "duration"
    page_dir: str | None = "page_dir"
    licence: str | None = None
    attribution: str | None = None
    split: str | None = None


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


def read_source_table(path: Path, columns: SourceColumns) -> list[tuple[SourceRow, Path | None]]:
    """Each row of a CSV or Parquet table, and its clip where that is a local path (relative to the table's folder).

    Raises ValueError where the table cannot be read or lacks a column.
    """
    table = _read(path)
    wanted = {key: name for key, name in columns.model_dump().items() if name is not None}
    missing = sorted(set(wanted.values()) - set(table.columns))
    if missing:
        raise ValueError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}. "
            "Name its columns in source.tables[].columns, null for one that it lacks"
        )
    records = table.to_dict("records")
    return [_row(path, number, {k: r[v] for k, v in wanted.items()}) for number, r in enumerate(records)]


def packaged_rows(manifest: Path, folder: Path, names: tuple[str, ...] | None) -> list[tuple[SourceRow, Path | None]]:
    """A row and a path for each clip of the packaged data in `folder`; `names` (file stems) takes some, None all.

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
            rows.append((row, folder / clip.path))
    return rows


def local_path(url: str, folder: Path) -> Path | None:
    """The file that `url` names: a file:// URL, an absolute path, or one relative to `folder`; None for other URLs."""
    parts = urlparse(url)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if parts.scheme and "://" in url else folder / url


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise ValueError(f"source table {path} does not exist")
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path).to_pandas()
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise ValueError(f"source table {path} cannot be read as {path.suffix or 'CSV'}: {error}") from error


def _row(path: Path, number: int, values: dict[str, Any]) -> tuple[SourceRow, Path | None]:
    url = str(values["contentUrl"])
    row = SourceRow(
        videoid=as_id(str(values.get("videoid") or f"{path.stem}-{number}")),
        contentUrl=url,
        name=str(values["name"]),
        duration=_seconds(values.get("duration")),
        page_dir=str(values.get("page_dir") or ""),
        origin="real",
        licence=str(values.get("licence") or "unknown"),
        attribution=str(values.get("attribution") or ""),
        truth="",
        split="val" if values.get("split") == "val" else "train",
        source_table=path.name,
        source_row=number,
    )
    return row, local_path(url, path.parent)


def as_id(text: str) -> str:
    """`text` as a clip's id: letters, digits and '-'; other characters become '-'."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:60] or "clip"


def _seconds(value: object) -> float:
    """Seconds of a number, or of WebVid's ISO form PT00H00M14S; 0 for anything else."""
    text = str(value or "")
    if iso := re.fullmatch(r"PT(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?", text):
        hours, minutes, seconds = (float(part or 0) for part in iso.groups())
        return 3600 * hours + 60 * minutes + seconds
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0
