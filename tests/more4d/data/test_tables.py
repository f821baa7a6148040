"""Claims about more4d.data.tables."""

from pathlib import Path

import pandas as pd
import pytest
from more4d.data.tables import (
    TooManyRejectsError,
    read_accepted,
    read_table,
    require_accepted,
    verdict,
    write_table,
)


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
