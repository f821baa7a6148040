"""Claims about more4d.stages.source where its tables and videos are elsewhere."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from more4d.data.tables import read_table
from more4d.data.video import encode_video, probe_video, read_video
from more4d.stages.base import VideoSpec, fingerprint, run_stage
from more4d.stages.source import SourceStage
from pydantic import ValidationError

VIDEO = VideoSpec(frames=5, height=32, width=48, fps=8)
HEADER = "videoid,contentUrl,duration,page_dir,name\n"


def _clip(seed: int, frames: int = 6) -> bytes:
    images = np.random.default_rng(seed).integers(0, 256, (frames, 32, 48, 3)).astype(np.uint8)
    return encode_video(images, 8, crf=30)


@pytest.fixture
def run(tmp_path: Path, site: Any) -> Callable[..., list[dict[str, Any]]]:
    """Runs the stage over one table in a workspace without rendered or packaged clips; returns its rows."""
    (tmp_path / ".cache" / "packaged").mkdir(parents=True)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "packaged.toml").write_text("wheel = []\n")
    limits = {"allow_hosts": [f"127.0.0.1:{site.port}"], "backoff": 0.01, "attempts": 2}

    def one(fetch: dict[str, Any] | None = None, **table: Any) -> list[dict[str, Any]]:
        params = SourceStage.section.model_validate(
            {"rendered_train": 0, "rendered_val": 0, "packaged": [], "max_rejected_share": 1, "tables": [table]}
            | {"fetch": limits | (fetch or {})}
        )
        run_stage(SourceStage(), params=params, video=VIDEO, seed=0, workers=1, root=tmp_path)
        return read_table(tmp_path / "datasets" / "source" / "table.parquet").to_dict("records")

    return one


def test_a_table_of_links_becomes_clips_and_verdicts(run: Callable[..., Any], site: Any, tmp_path: Path) -> None:
    good, again = site.add("/a.mp4?v=1", _clip(1), site.cut(300)), site.add("/again.mp4", _clip(1))
    page = site.add("/page.mp4", b"<!DOCTYPE html><p>Sign in to see this video</p>" * 30)
    playlist = site.add("/list.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    cut_off = site.add("/short.mp4", _clip(2)[:200])
    lines = [
        f"a,{good},1,p,A dog runs", f"b,{again},1,p,A dog runs", f"c,{site.url('/gone')},1,p,A dog runs",
        f"d,{page},1,p,A dog runs", f"e,{playlist},1,p,A dog runs", f"f,{cut_off},1,p,A dog runs",
        "g,file:///etc/passwd,1,p,A dog runs", "h,http://169.254.169.254/x,1,p,A dog runs", f"i,{good},1,p,",
        f"a,{good},1,p,Another", "j,ftp://h/a.mp4,1,p,A dog runs", f"k,{good},1,p,A dog, running",
    ]  # fmt: skip
    (tmp_path / "t.csv").write_text(HEADER + "\n".join(lines) + "\n")
    rows = run(path="t.csv", schemes=["http"])
    assert [row["verdict"] for row in rows] == ["accepted"] + ["rejected"] * 11
    found = [row["reason"] for row in rows[1:]]
    expected = [
        "the same bytes as a", "HTTP 404", "wrong type: the file is text", "wrong type: the file is text",
        "short.mp4 cannot be opened as a video", "refused: file://", "refused: 169.254.169.254", "no caption",
        "the same id as row 0", "refused: ftp://", "line 13: 6 fields",
    ]  # fmt: skip
    assert [reason for reason, start in zip(found, expected, strict=True) if start not in reason] == []
    assert (tmp_path / "datasets" / "source" / rows[0]["contentUrl"]).read_bytes() == _clip(1)
    with (tmp_path / "datasets" / "source" / "rejected.csv").open(newline="") as stream:
        assert [row["reason"] for row in csv.DictReader(stream)] == found


def test_a_second_run_asks_for_nothing_and_gives_the_same_bytes(
    run: Callable[..., Any], site: Any, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text(HEADER + f"a,{site.add('/a.mp4', _clip(1))},1,p,A dog runs\n")
    run(path="t.csv", schemes=["http"])
    before = fingerprint(tmp_path / "datasets" / "source")
    run(path="t.csv", schemes=["http"], fetch={"parallel": 3})
    assert fingerprint(tmp_path / "datasets" / "source") == before
    assert len(site.asked) == 1


def test_a_table_may_itself_be_elsewhere_and_its_videos_beside_it(
    run: Callable[..., Any], site: Any, tmp_path: Path
) -> None:
    pd.DataFrame({"video": ["a.mp4"], "caption": ["A fox"], "seconds": [0.75]}).to_parquet(tmp_path / "x")
    site.add("/sets/open.parquet", (tmp_path / "x").read_bytes())
    site.add("/sets/a.mp4", _clip(1))
    (row,) = run(path=site.url("/sets/open.parquet"), columns={"like": "openvid"}, schemes=["http"])
    assert (row["verdict"], row["videoid"], row["source_table"]) == ("accepted", "a", "open.parquet")


def test_a_table_that_cannot_be_had_fails_the_stage_by_name(run: Callable[..., Any], site: Any) -> None:
    with pytest.raises(ValueError, match=r"source table http://.*/gone\.csv\?sig=\.\.\. cannot be had: HTTP 404"):
        run(path=site.url("/gone.csv?sig=secret"), schemes=["http"])
    with pytest.raises(ValueError, match="http:// is not among https, s3 and its own schemes"):
        run(path=site.url("/gone.csv"))


def test_parts_of_one_video_become_clips_of_their_own(run: Callable[..., Any], site: Any, tmp_path: Path) -> None:
    images = np.repeat(np.arange(40, dtype=np.uint8)[:, None] * 6, 32 * 48 * 3, 1).reshape(40, 32, 48, 3)
    url = site.add("/v.mp4", encode_video(images, 8, crf=4))
    spans, captions = [["0:00:01", "0:00:02"], ["0:00:03.5", "0:00:04.25"], ["0:00:09", "0:00:10"]], ["A", "B", "C"]
    table = {"videoID": ["v"], "url": [url], "timestamp": [str(spans)], "caption": [str(captions)]}
    pd.DataFrame(table).to_csv(tmp_path / "panda.csv", index=False)
    first, second, late = run(path="panda.csv", columns={"like": "panda70m"}, schemes=["http"])
    for row, begin, length in ((first, 8, 8), (second, 28, 6)):
        made, fps = read_video(tmp_path / "datasets" / "source" / row["contentUrl"])
        assert (len(made), fps) == (length, 8)
        np.testing.assert_allclose(made.mean((1, 2, 3)), 6 * np.arange(begin, begin + length), atol=6)
    assert (first["name"], second["begin"], second["end"], second["duration"]) == ("A", 3.5, 4.25, 0.75)
    assert late["reason"].endswith("has no frame between 9 s and 10 s")
    assert len(site.asked) == 1
    assert probe_video(tmp_path / "datasets" / "source" / second["contentUrl"]).duration == pytest.approx(0.75, abs=0.2)


def test_a_spreadsheet_finds_no_formula_in_what_was_rejected(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "good.mp4").write_bytes(_clip(1))
    lines = 'a,good.mp4,1,p,A dog\nb,=cmd|\'/C calc\'!A0,1,p,"=HYPERLINK(""http://x"")"\nc,+1,1,p,-2+3\n'
    (tmp_path / "t.csv").write_text(HEADER + lines)
    run(path="t.csv")
    with (tmp_path / "datasets" / "source" / "rejected.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == ['\'=HYPERLINK("http://x")', "'-2+3"]
    assert [row["contentUrl"] for row in rows] == ["'=cmd|'/C calc'!A0", "'+1"]


def test_files_that_are_none_are_verdicts(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "good.mp4").write_bytes(_clip(1))
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "folder.mp4").mkdir()
    names = ["good.mp4", "empty.mp4", "folder.mp4", "/dev/zero", "../gone.mp4", "x" * 3000, "C:\\a.mp4"]
    (tmp_path / "t.csv").write_text(HEADER + "".join(f"{i},{name},1,p,A dog\n" for i, name in enumerate(names)))
    reasons = [row["reason"] for row in run(path="t.csv")]
    expected = [
        "",
        "empty: ",
        "is not a regular file",
        "zero is not a regular file",
        "does not exist",
        "cannot be read",
    ]
    assert [
        reason for reason, words in zip(reasons, [*expected, "does not exist"], strict=True) if words not in reason
    ] == []
    assert reasons[0] == ""


def test_an_unknown_encoding_is_refused_when_the_parameters_are_read() -> None:
    with pytest.raises(ValidationError, match="unknown encoding 'utf-9'; try utf-8"):
        SourceStage.section.model_validate(
            {"rendered_train": 0, "rendered_val": 0, "max_rejected_share": 0}
            | {"tables": [{"path": "t.csv", "encoding": "utf-9"}]}
        )
