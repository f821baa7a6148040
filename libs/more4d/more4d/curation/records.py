"""Rows of CSV and Parquet files that strangers wrote, one by one; what is wrong with a row is said beside it."""

import codecs
import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

_LARGEST_FIELD = 131_072
# Bytes that the encoding does not allow come as surrogates; no text holds a NUL.
_BROKEN = re.compile("[\ud800-\udfff\0]")
_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True)
class Record:
    """A row's values under the names that were asked for; or what is wrong with it, and where."""

    number: int
    """From 0, over the rows after the header."""
    values: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def iter_records(path: Path, wanted: dict[str, str], encoding: str) -> Iterator[Record]:
    """The rows of a table, Parquet by its ending and CSV else (tabs where it ends in .tsv).

    `wanted` is new name -> column; other columns are not read. Raises ValueError where the file is no table or lacks a
    column, naming the line where there is one.
    """
    if not path.is_file():
        raise ValueError(f"source table {path} does not exist")
    read = _parquet if path.suffix.lower() == ".parquet" else _csv
    try:
        yield from read(path, wanted, encoding)
    except (UnicodeError, LookupError, csv.Error, pa.ArrowException, OSError) as error:
        raise ValueError(f"source table {path} cannot be read as {path.suffix or 'CSV'}: {error}") from error


def _parquet(path: Path, wanted: dict[str, str], encoding: str) -> Iterator[Record]:
    """Batch by batch: a table of ten million rows is never in memory. Its text is UTF-8 by definition."""
    with pq.ParquetFile(path) as file:
        _require_columns(path, wanted, file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches(batch_size=4096, columns=sorted(set(wanted.values()))):
            for row in batch.to_pylist():
                yield _checked(number, {key: row[name] for key, name in wanted.items()}, f"row {number}")
                number += 1


def _csv(path: Path, wanted: dict[str, str], encoding: str) -> Iterator[Record]:
    _require_encoding(path, encoding)
    # A byte that is no UTF-8 spoils its row, not the table: it is let through, and found in the row.
    name = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding=name, errors="surrogateescape", newline="") as stream:
        lines = csv.reader(_bounded_lines(stream), delimiter=delimiter, strict=True)
        header = next(lines, None) or []
        _require_columns(path, wanted, header)
        yield from _data_rows(lines, header, wanted)


def _bounded_lines(stream: IO[str]) -> Iterator[str]:
    """Lines no longer than what is needed to see that a field is too long: a file of one line is not read whole."""
    limit = 64 * _LARGEST_FIELD
    while line := stream.readline(limit):
        yield line


def _data_rows(lines: Any, header: list[str], wanted: dict[str, str]) -> Iterator[Record]:  # noqa: ANN401 - csv's reader has no name
    places = {key: header.index(name) for key, name in wanted.items()}
    number = 0
    while True:
        first = lines.line_num + 1
        try:
            row = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(number, problem=f"{_lines(first, lines.line_num)}: not CSV: {error}")
            number += 1
            continue
        if not row:
            continue
        where = _lines(first, lines.line_num)
        if len(row) != len(header):
            yield Record(number, problem=f"{where}: {len(row)} fields, where the header has {len(header)}")
        else:
            yield _checked(number, {key: row[place] for key, place in places.items()}, where)
        number += 1


def _checked(number: int, values: dict[str, Any], where: str) -> Record:
    """The row, with its problem where a text is not what its encoding allows; such texts are made writable."""
    if long := [key for key, value in values.items() if isinstance(value, str) and len(value) > _LARGEST_FIELD]:
        cut = {key: _printable(value)[:200] if key in long else _printable(value) for key, value in values.items()}
        return Record(number, cut, f"{where}: {', '.join(long)} is longer than {_LARGEST_FIELD} characters")
    bad = [key for key, value in values.items() if isinstance(value, bytes) or _is_broken(value)]
    texts = {key: _printable(value) for key, value in values.items()}
    return Record(number, texts, f"{where}: {', '.join(bad)} is not text in the table's encoding" if bad else "")


def _is_broken(value: Any) -> bool:  # noqa: ANN401 - a cell
    return isinstance(value, str) and _BROKEN.search(value) is not None


def _printable(value: Any) -> Any:  # noqa: ANN401 - a cell
    if isinstance(value, bytes):
        return value[:200].decode("utf-8", "replace")
    if not isinstance(value, str):
        return value
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode() if _is_broken(value) else value


def _require_encoding(path: Path, encoding: str) -> None:
    with path.open("rb") as stream:
        mark = _MARKS.get(stream.read(2))
    if mark and not codecs.lookup(encoding).name.startswith("utf-16"):
        raise ValueError(
            f"source table {path} cannot be read as {path.suffix}: it begins with the mark of UTF-16; "
            "save it as UTF-8, or set source.tables[].encoding to utf-16"
        )


def _require_columns(path: Path, wanted: dict[str, str], header: list[str]) -> None:
    if missing := sorted(set(wanted.values()) - set(header)):
        raise ValueError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(map(_short, header))}. "
            "Name its columns in source.tables[].columns, null for one that it lacks"
        )
    if twice := sorted({name for name in wanted.values() if header.count(name) > 1}):
        raise ValueError(f"{path} has several columns called {', '.join(twice)}; rename all but one")


def _short(name: object) -> str:
    """A column's name as an error may show it."""
    return str(_printable(str(name)))[:60]


def _lines(first: int, last: int) -> str:
    return f"line {first}" if last <= first else f"lines {first}-{last}"


def write_csv(path: Path, header: list[str], rows: list[dict[str, Any]]) -> None:
    """Write rows as UTF-8 CSV that a spreadsheet shows as text: a cell that begins like a formula gets a leading '."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(
            stream, header, extrasaction="ignore", lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC
        )
        writer.writeheader()
        writer.writerows({key: escape_formula(row[key]) for key in header} for row in rows)


def escape_formula(value: Any) -> Any:  # noqa: ANN401 - a cell
    """A text that no spreadsheet takes for a formula; anything else as it is."""
    if isinstance(value, str) and value.lstrip(" ")[:1] in ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%"):
        return "'" + value
    return value
