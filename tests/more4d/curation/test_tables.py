"""Claims about more4d.curation.tables."""

from pathlib import Path

import pandas as pd
import pytest
from more4d.curation.layouts import SourceColumns
from more4d.curation.tables import Candidate, locate, name_apart, packaged_rows, parse_seconds, read_source_table

HASH = "0" * 64
WEBVID = SourceColumns.model_validate({})


def _read(path: Path, content: str | bytes, **columns: object) -> list[Candidate]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_source_table(path, SourceColumns.model_validate(columns)))


def test_a_webvid_csv_is_read_with_its_iso_durations(tmp_path: Path) -> None:
    content = "videoid,contentUrl,duration,page_dir,name\n7,https://x/7.mp4,PT00H01M05S,p,A dog\n8,b.mp4,3.5,q,A cat\n"
    first, second = _read(tmp_path / "t.csv", content)
    assert (first.row.videoid, first.row.duration, first.row.name, first.row.source_row) == ("7", 65, "A dog", 0)
    assert (first.url, first.file) == ("https://x/7.mp4", None)
    assert (second.row.duration, second.url, second.file) == (3.5, "", tmp_path / "b.mp4")


def test_an_openvid_table_is_read_by_naming_its_layout_alone(tmp_path: Path) -> None:
    pd.DataFrame({"video": ["celeb_1.mp4"], "caption": ["A fox"], "seconds": [4.5], "fps": [24.0]}).to_csv(
        tmp_path / "t.csv", index=False
    )
    columns = SourceColumns.model_validate({"like": "openvid"})
    (found,) = read_source_table(tmp_path / "t.csv", columns, base="https://host/clips/")
    assert (found.row.videoid, found.row.name, found.row.duration) == ("celeb-1", "A fox", 4.5)
    assert found.url == "https://host/clips/celeb_1.mp4"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_panda_row_becomes_a_row_for_each_of_its_parts(tmp_path: Path, suffix: str) -> None:
    spans, captions = [["0:00:13.680", "0:00:30.280"], ["0:01:00.000", "0:01:02.500"]], ["A panda", 'It\'s a "dog"']
    lists = (spans, captions) if suffix == "parquet" else (str(spans), str(captions))
    table = pd.DataFrame({"videoID": ["-x_Y"], "url": ["https://h/v"], "timestamp": [lists[0]], "caption": [lists[1]]})
    path = tmp_path / f"t.{suffix}"
    table.to_parquet(path) if suffix == "parquet" else table.to_csv(path, index=False)
    first, second = read_source_table(path, SourceColumns.model_validate({"like": "panda70m"}))
    assert (first.row.videoid, first.row.begin, first.row.end, first.row.name) == ("x-Y-000", 13.68, 30.28, "A panda")
    assert (second.row.videoid, second.row.begin, second.row.duration) == ("x-Y-001", 60, 2.5)
    assert second.row.name == 'It\'s a "dog"'


def test_columns_of_begin_and_end_name_a_part(tmp_path: Path) -> None:
    (found,) = _read(
        tmp_path / "t.csv", "video,caption,from,to\na.mp4,A dog,1.5,0:04\n",
        like="openvid", duration=None, begin="from", end="to",
    )  # fmt: skip
    assert (found.row.begin, found.row.end, found.row.duration, found.problem) == (1.5, 4, 2.5, "")


def test_another_tables_columns_are_read_by_name(tmp_path: Path) -> None:
    pd.DataFrame({"video": ["c.mp4"], "caption": ["A fox"], "lic": ["CC0"]}).to_parquet(tmp_path / "t.parquet")
    given = dict(videoid=None, contentUrl="video", name="caption", duration=None, page_dir=None, licence="lic")
    (found,) = read_source_table(tmp_path / "t.parquet", SourceColumns.model_validate(given))
    row = found.row
    assert (row.videoid, row.name, row.licence, row.origin, row.split) == ("t-0", "A fox", "CC0", "real", "train")


def test_a_table_without_the_columns_says_which_it_has(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no column contentUrl, duration, name, page_dir, videoid; it has url, text"):
        _read(tmp_path / "t.csv", "url,text\na.mp4,A fox\n")


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("t.parquet", b"not parquet", r"t\.parquet cannot be read as \.parquet"),
        ("t.csv", b"\xff\xfev\x00", r"t\.csv cannot be read as \.csv: it begins with the mark of UTF-16"),
        ("t.csv", b"", r"t\.csv has no column"),
        ("t.csv", b"videoid,contentUrl,contentUrl,duration,page_dir,name\n", "several columns called contentUrl"),
        ("t.csv", b'"videoid', r"t\.csv cannot be read as \.csv: unexpected end of data"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path: Path, name: str, content: bytes, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        _read(tmp_path / name, content)


def test_a_table_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.csv does not exist"):
        list(read_source_table(tmp_path / "none.csv", WEBVID))


HEADER = b"videoid,contentUrl,duration,page_dir,name\n"
GOOD = b"z,z.mp4,1,p,A zebra\n"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"a,a.mp4,1,p,A caf\xe9\n", "line 2: name is not text in the table's encoding"),
        (b"a,a.mp4,1,p,A d\x00og\n", "line 2: name is not text"),
        (b"a,a.mp4,1,p\n", "line 2: 4 fields, where the header has 5"),
        (b"a,a.mp4,1,p,A dog, running\n", "line 2: 6 fields"),
        (b"a,a.mp4,1,p,\n", "no caption"),
        (b"a,,1,p,A dog\n", "no address"),
        (b"a,file://server/a.mp4,1,p,A dog\n", "file:// names another machine, server"),
        (b'a,a.mp4,1,p,"A"dog\n', "line 2: not CSV"),
        (b"a,a.mp4,1,p," + b"x" * 200_000 + b"\n", "line 2: not CSV: field larger than field limit"),
    ],
)
def test_a_bad_line_is_a_problem_of_its_own_row_alone(tmp_path: Path, line: bytes, problem: str) -> None:
    bad, good = _read(tmp_path / "t.csv", HEADER + line + GOOD)
    assert problem in bad.problem
    assert (good.row.videoid, good.problem, good.row.source_row) == ("z", "", 1)


def test_a_quote_that_is_never_closed_is_a_row_with_its_lines(tmp_path: Path) -> None:
    (bad,) = _read(tmp_path / "t.csv", HEADER + b'a,a.mp4,1,p,"A dog\n' + GOOD)
    assert bad.problem.startswith("lines 2-3: not CSV: unexpected end of data")


@pytest.mark.parametrize(
    ("cell", "caption"),
    [
        ('"=HYPERLINK(""http://x"",""A"")"', '=HYPERLINK("http://x","A")'),
        ("@SUM(1)", "@SUM(1)"),
        ('"A dog\nruns\r\nfast"', "A dog runs fast"),
        ("A\x1b[31m dog", "A [31m dog"),
        ("Ein Häschen läuft 🐇", "Ein Häschen läuft 🐇"),
        ("NA", "NA"),
        ("007", "007"),
    ],
)
def test_a_caption_is_text_on_one_line_and_nothing_else(tmp_path: Path, cell: str, caption: str) -> None:
    (found,) = _read(tmp_path / "t.csv", HEADER.decode() + f"a,a.mp4,1,p,{cell}\n")
    assert (found.row.name, found.problem) == (caption, "")


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    (found,) = _read(tmp_path / "t.csv", b"\xef\xbb\xbf" + HEADER + GOOD)
    assert found.row.videoid == "z"


def test_another_encoding_is_read_where_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes((HEADER + b"a,a.mp4,1,p,A caf\xe9\n").decode("cp1252").encode("utf-16"))
    (found,) = read_source_table(tmp_path / "t.csv", WEBVID, encoding="utf-16")
    assert (found.row.name, found.problem) == ("A café", "")


@pytest.mark.parametrize(
    ("stamps", "captions", "problem"),
    [
        ("[['0:00:01','0:00:02']]", "['A','B']", "1 timestamps for 2 captions"),
        ("[['0:00:02','0:00:01']]", "['A']", "is no span of time"),
        ("[['nan','inf']]", "['A']", "is no span of time"),
        ("[[1]]", "['A']", "is not [begin, end]"),
        ("[]", "[]", "0 timestamps"),
        ("__import__('os').abort()", "['A']", "timestamp is not a list"),
        ("[" * 5000, "['A']", "timestamp is not a list"),
        ("[[0, 2]]", "['']", "no caption"),
    ],
)
def test_bad_timestamps_are_a_problem_of_their_row(tmp_path: Path, stamps: str, captions: str, problem: str) -> None:
    table = pd.DataFrame({"videoID": ["a"], "url": ["a.mp4"], "timestamp": [stamps], "caption": [captions]})
    table.to_csv(tmp_path / "t.csv", index=False)
    (bad,) = read_source_table(tmp_path / "t.csv", SourceColumns.model_validate({"like": "panda70m"}))
    assert problem in bad.problem


def test_binary_and_endless_cells_of_parquet_are_problems_of_their_rows(tmp_path: Path) -> None:
    table = pd.DataFrame({"video": [b"\xff", b"b.mp4", b"c.mp4"], "caption": ["A", "B", "x" * 200_000]})
    table.to_parquet(tmp_path / "t.parquet")
    columns = SourceColumns.model_validate({"like": "openvid", "duration": None})
    problems = [found.problem for found in read_source_table(tmp_path / "t.parquet", columns)]
    assert "row 0: videoid, contentUrl is not text" in problems[0]
    assert "row 2: name is longer than 131072 characters" in problems[2]


def test_ids_stay_apart_inside_the_folder_whatever_characters_they_hold(tmp_path: Path) -> None:
    ids = ["a/b", "a-b", "../../etc/passwd", "a b", "long" * 30 + "1", "long" * 30 + "2", "taken", "...", "🦊"]
    lines = "".join(f"{name},{number}.mp4,1,p,A dog\n" for number, name in enumerate(ids))
    found = [c.row.videoid for c in name_apart(_read(tmp_path / "t.csv", HEADER.decode() + lines), ["taken"])]
    assert len(set(found)) == len(ids)
    assert "taken" not in found
    assert all(name.replace("-", "").isalnum() and name.isascii() and len(name) <= 60 for name in found)
    (tmp_path / "other").mkdir()
    moved = name_apart(_read(tmp_path / "other" / "t.csv", HEADER.decode() + lines), ["taken"])
    assert [c.row.videoid for c in moved] == found


def test_tables_of_one_name_share_no_id(tmp_path: Path) -> None:
    candidates: list[Candidate] = []
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        candidates += _read(tmp_path / folder / "t.csv", HEADER + GOOD)
    found = list(name_apart(candidates, []))
    assert len({c.row.videoid for c in found}) == 3
    assert not any(c.problem for c in found)


def test_the_second_row_of_an_id_has_a_problem(tmp_path: Path) -> None:
    first, second = name_apart(_read(tmp_path / "t.csv", HEADER + GOOD + GOOD.replace(b"z.mp4", b"y.mp4")), [])
    assert (first.problem, second.problem) == ("", "the same id as row 0 of t.csv")


def test_only_the_first_rows_are_read_where_so_many_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(HEADER + GOOD + GOOD)
    assert len(list(read_source_table(tmp_path / "t.csv", WEBVID, first_rows=1))) == 1


def test_secrets_of_an_address_are_not_recorded(tmp_path: Path) -> None:
    url = "https://user:pass@h/a.mp4?v=7&X-Amz-Signature=abc&token=def#f"
    (found,) = _read(tmp_path / "t.csv", HEADER.decode() + f"a,{url},1,p,A dog\n")
    assert found.row.contentUrl == "https://h/a.mp4?v=7&X-Amz-Signature=...&token=..."
    assert found.url == url


def test_addresses_are_files_or_urls_by_their_base(tmp_path: Path) -> None:
    assert locate("file:///a%20b.mp4", str(tmp_path)) == (Path("/a b.mp4"), "")
    assert locate("c.mp4", str(tmp_path)) == (tmp_path / "c.mp4", "")
    assert locate("s3://bucket/c.mp4", str(tmp_path)) == (None, "s3://bucket/c.mp4")
    assert locate("d e/c.mp4", "s3://bucket/x/") == (None, "s3://bucket/x/d e/c.mp4")
    assert locate("d e/c.mp4", "https://h/x/") == (None, "https://h/x/d%20e/c.mp4")
    assert locate("//evil.example/c.mp4", "https://h/x") == (None, "https://h/x/evil.example/c.mp4")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("PT00H00M14S", 14), ("1:02:03.5", 3723.5), ("2.5", 2.5), ("-1", None), ("1e9", None), ("", None), ("inf", None)],
)
def test_seconds_are_read_in_three_forms_and_no_other(text: str, seconds: float | None) -> None:
    assert parse_seconds(text) == seconds


def test_packaged_clips_become_rows_and_unknown_names_are_refused(tmp_path: Path) -> None:
    manifest = tmp_path / "packaged.toml"
    manifest.write_text(
        f'[[wheel]]\npackage = "p"\nversion = "1"\nsha256 = "{HASH}"\n[[wheel.file]]\nmember = "m/a_b.mp4"\n'
        f'path = "clips/a_b.mp4"\nkind = "clip"\nbytes = 1\nsha256 = "{HASH}"\nlicence = "MIT"\n'
        'attribution = "someone"\ncaption = "A dog runs"\n'
    )
    (found,) = packaged_rows(manifest, tmp_path / "p", None)
    row = found.row
    assert (row.videoid, row.name, row.licence, row.attribution) == ("a-b", "A dog runs", "MIT", "someone")
    assert found.file == tmp_path / "p" / "clips" / "a_b.mp4"
    with pytest.raises(ValueError, match="lists no clip other, only a_b"):
        packaged_rows(manifest, tmp_path, ("other",))
