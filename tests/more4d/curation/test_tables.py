"""Claims about more4d.curation.tables."""

from pathlib import Path

import pandas as pd
import pytest
from more4d.curation.tables import SourceColumns, local_path, packaged_rows, read_source_table

HASH = "0" * 64


def test_a_webvid_csv_is_read_with_its_iso_durations(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "videoid,contentUrl,duration,page_dir,name\n7,https://x/7.mp4,PT00H01M05S,p,A dog\n8,b.mp4,3.5,q,A cat\n"
    )
    (first, remote), (second, local) = read_source_table(tmp_path / "t.csv", SourceColumns())
    assert (first.videoid, first.duration, first.name, first.source_row, remote) == ("7", 65, "A dog", 0, None)
    assert (second.duration, local) == (3.5, tmp_path / "b.mp4")


def test_another_tables_columns_are_read_by_name(tmp_path: Path) -> None:
    pd.DataFrame({"video": ["c.mp4"], "caption": ["A fox"], "lic": ["CC0"]}).to_parquet(tmp_path / "t.parquet")
    columns = SourceColumns(
        videoid=None, contentUrl="video", name="caption", duration=None, page_dir=None, licence="lic"
    )
    ((row, _),) = read_source_table(tmp_path / "t.parquet", columns)
    assert (row.videoid, row.name, row.licence, row.origin, row.split) == ("t-0", "A fox", "CC0", "real", "train")


def test_a_table_without_the_columns_says_which_it_has(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("url,text\na.mp4,A fox\n")
    with pytest.raises(ValueError, match=r"no column contentUrl, duration, name, page_dir, videoid; it has url, text"):
        read_source_table(tmp_path / "t.csv", SourceColumns())


def test_a_table_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"not parquet")
    with pytest.raises(ValueError, match=r"t\.parquet cannot be read as \.parquet"):
        read_source_table(tmp_path / "t.parquet", SourceColumns())
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(ValueError, match=r"t\.csv cannot be read as \.csv"):
        read_source_table(tmp_path / "t.csv", SourceColumns())
    with pytest.raises(ValueError, match=r"none\.csv does not exist"):
        read_source_table(tmp_path / "none.csv", SourceColumns())


def test_only_files_are_local(tmp_path: Path) -> None:
    assert local_path("file:///a%20b.mp4", tmp_path) == Path("/a b.mp4")
    assert local_path("c.mp4", tmp_path) == tmp_path / "c.mp4"
    assert local_path("s3://bucket/c.mp4", tmp_path) is None


def test_packaged_clips_become_rows_and_unknown_names_are_refused(tmp_path: Path) -> None:
    manifest = tmp_path / "packaged.toml"
    manifest.write_text(
        f'[[wheel]]\npackage = "p"\nversion = "1"\nsha256 = "{HASH}"\n[[wheel.file]]\nmember = "m/a_b.mp4"\n'
        f'path = "clips/a_b.mp4"\nkind = "clip"\nbytes = 1\nsha256 = "{HASH}"\nlicence = "MIT"\n'
        'attribution = "someone"\ncaption = "A dog runs"\n'
    )
    ((row, path),) = packaged_rows(manifest, tmp_path / "p", None)
    assert (row.videoid, row.name, row.licence, row.attribution) == ("a-b", "A dog runs", "MIT", "someone")
    assert path == tmp_path / "p" / "clips" / "a_b.mp4"
    with pytest.raises(ValueError, match="lists no clip other, only a_b"):
        packaged_rows(manifest, tmp_path, ("other",))
