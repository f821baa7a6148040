from pathlib import Path

import pandas as pd
import pytest
from more4d.data.tables import write_table
from more4d.report.curated.journey import follow, funnel
from more4d.report.curated.tables import TABLES, read_tables


def write_all(root: Path, tables: dict[str, pd.DataFrame]) -> dict[str, Path]:
    for stage, name in TABLES.items():
        (root / stage).mkdir()
        write_table(root / stage / name, tables[stage])
    return {stage: root / stage for stage in TABLES}


@pytest.mark.parametrize("stage", TABLES)
def test_a_missing_table_names_its_path_and_stage(
    stage: str, some_tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    folders = write_all(tmp_path, some_tables)
    (folders[stage] / TABLES[stage]).unlink()
    with pytest.raises(ValueError, match=rf"{TABLES[stage]}, which does not exist: run stage {stage}"):
        read_tables(folders)


def test_a_table_that_is_none_or_lacks_a_column_is_refused(
    some_tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    folders = write_all(tmp_path, some_tables)
    write_table(folders["tracks"] / "tracks.parquet", some_tables["tracks"].drop(columns="depth_licence"))
    with pytest.raises(ValueError, match="has no column depth_licence: run stage tracks again"):
        read_tables(folders)
    (folders["clips"] / "clips.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(ValueError, match=r"clips\.parquet cannot be read as Parquet"):
        read_tables(folders)


def test_stages_that_had_nothing_to_do_leave_an_empty_funnel(
    some_tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    tables = read_tables(write_all(tmp_path, {stage: pd.DataFrame() for stage in TABLES}))
    assert all(step.entered == step.kept == 0 for step in funnel(follow(tables)))
