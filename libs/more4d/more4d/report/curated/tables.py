"""The data stages' tables as the report reads them, checked against each other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pyarrow as pa

from more4d.data.tables import ACCEPTED, read_table

TABLES = {
    "source": "table.parquet",
    "clips": "clips.parquet",
    "captions": "captions.parquet",
    "selection": "selection.parquet",
    "depth": "depth.parquet",
    "tracks": "tracks.parquet",
    "trajscene": "verdicts.parquet",
}
"""Stage and the table in its output folder, in the order in which a clip meets them."""
AFTER_CLIPS = tuple(TABLES)[2:]
_VERDICT = ("verdict", "reason")
_ABOUT = ("videoid", "name", "origin", "licence", "attribution", "split", "source_table", "source_row")
_COLUMNS = {
    "source": (*_ABOUT, "contentUrl", "duration", "sha256", *_VERDICT),
    "clips": ("clip_id", *_ABOUT, "start_seconds", "frames", "fps", "path", "perceptual_hash", *_VERDICT),
    "captions": ("clip_id", "caption", *_VERDICT),
    "depth": ("clip_id", "licence", *_VERDICT),
    "tracks": ("clip_id", "licence", "depth_licence", *_VERDICT),
}

Tables = Mapping[str, pd.DataFrame]


def rows_where(table: pd.DataFrame, mask: pd.Series) -> pd.DataFrame:
    """The rows for which the mask holds, under their own numbers."""
    return cast(pd.DataFrame, table[mask])


def column(table: pd.DataFrame, name: str) -> pd.Series:
    """One column."""
    return cast(pd.Series, table[name])


def values_of(column: pd.Series) -> list[Any]:
    """The column's values; many times faster than going through a column of Arrow's strings one by one."""
    return column.to_numpy(object).tolist()


def text_of(table: pd.DataFrame, name: str) -> pd.Series:
    """A column as text, "" where there is none."""
    return cast(pd.Series, column(table, name).fillna("").astype(str))


def accepted_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that were accepted."""
    return rows_where(table, column(table, "verdict") == ACCEPTED)


def by_clip(table: pd.DataFrame, clip_ids: pd.Series) -> pd.DataFrame:
    """The table's rows of these clips in their order, indexed by clip; NaN where it has none."""
    return table.set_index("clip_id").reindex(clip_ids)


def read_tables(folders: Mapping[str, Path]) -> dict[str, pd.DataFrame]:
    """Every stage's table by stage; other columns than the report knows stay as they are.

    Raises ValueError where a table is missing, is not Parquet or lacks a column, naming the stage to run.
    """
    return {stage: _read(stage, folders[stage] / file) for stage, file in TABLES.items()}


def _read(stage: str, path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise ValueError(f"the report needs {path}, which does not exist: run stage {stage}")
    try:
        table = read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}; run stage {stage} again") from error
    needed = _COLUMNS.get(stage, ("clip_id", *_VERDICT))
    if not len(table):
        # A table of no rows was written without columns.
        return table.reindex(columns=list(dict.fromkeys((*needed, *table.columns))))
    if missing := [name for name in needed if name not in table.columns]:
        raise ValueError(f"{path} has no column {', '.join(missing)}: run stage {stage} again")
    return table
