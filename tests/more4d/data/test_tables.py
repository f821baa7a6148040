"""Claims about more4d.data.tables."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from more4d.data.tables import (
    TooManyRejectsError,
    read_accepted,
    read_settings,
    read_table,
    require_accepted,
    verdict,
    write_table,
)
from more4d.settings import Section


class _Filters(Section):
    sizes: tuple[int, int] = (32, 48)
    min_motion: float = 0.01


class _Params(Section):
    captioner: str = "vlm"
    filters: _Filters = _Filters()
    server: dict[str, Any] | None = None
    external: dict[str, Any] | None = None
    commercial_only: bool = False
    max_rejected_share: float = 0.5


def _table() -> pd.DataFrame:
    rows = [{"id": "a"} | verdict([]), {"id": "b"} | verdict(["too dark", "static"]), {"id": "c"} | verdict([])]
    return pd.DataFrame(rows)


def test_rejected_rows_stay_and_accepted_ones_are_read(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", _table())
    assert list(read_table(tmp_path / "t.parquet")["reason"]) == ["", "too dark; static", ""]
    assert list(read_accepted(tmp_path / "t.parquet")["id"]) == ["a", "c"]


def test_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("1.parquet", "2.parquet"):
        write_table(tmp_path / name, _table())
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_a_table_says_by_which_settings_it_was_judged_and_its_rows_stay_the_same(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, _table(), _Params())
    assert read_settings(path) == {"captioner": "vlm", "filters": {"sizes": [32, 48], "min_motion": 0.01}}
    write_table(tmp_path / "bare.parquet", _table())
    assert read_settings(tmp_path / "bare.parquet") == {}
    pd.testing.assert_frame_equal(read_table(path), read_table(tmp_path / "bare.parquet"))


def test_only_what_judges_a_row_changes_the_bytes(tmp_path: Path) -> None:
    elsewhere = _Params(
        server={"base_url": "http://secret-host/v1"},
        external={"delta": {"python": "/home/me/python"}},
        commercial_only=True,
        max_rejected_share=1.0,
    )
    stricter = _Params(filters=_Filters(min_motion=0.02))
    for name, params in (("1", _Params()), ("2", _Params()), ("3", elsewhere), ("4", stricter)):
        write_table(tmp_path / name, _table(), params)
    first, second, third, fourth = ((tmp_path / name).read_bytes() for name in "1234")
    assert first == second == third != fourth
    assert b"secret-host" not in third and b"min_motion" in third


@pytest.mark.parametrize("text", [b"{", b"\xff", json.dumps([1]).encode()])
def test_damaged_settings_are_refused_by_the_file(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, _table())
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"more4d.settings": text}), path)
    with pytest.raises(ValueError, match=r"the settings in .*t\.parquet are no"):
        read_settings(path)


def test_rejects_are_counted_and_above_the_limit_an_error_that_says_why() -> None:
    assert require_accepted(_table(), stage="clips", max_rejected_share=0.4) == {
        "rows": 3, "accepted": 2, "rejected": 1, "rejected_share": 0.333333,
    }  # fmt: skip
    with pytest.raises(TooManyRejectsError, match=r"1 of 3 rows .* clips\.max_rejected_share=0\.3.*1 x too dark"):
        require_accepted(_table(), stage="clips", max_rejected_share=0.3)


def test_nothing_accepted_is_an_error_whatever_the_limit() -> None:
    with pytest.raises(TooManyRejectsError, match="none of 1 rows"):
        require_accepted(_table().iloc[1:2], stage="clips", max_rejected_share=1.0)
    with pytest.raises(TooManyRejectsError, match="none of 0 rows"):
        require_accepted(pd.DataFrame(), stage="clips", max_rejected_share=1.0)
