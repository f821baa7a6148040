from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from more4d.data.tables import read_table, write_table
from more4d.report.curated.charts import bin_edges, histogram_svg
from more4d.report.curated.scores import LIMITED, SCORES, Distribution, Score, distributions, limit, read_limits
from more4d.report.curated.tables import TABLES

from tests.more4d.report.curated.conftest import PARAMS, SETTINGS

Tables = dict[str, pd.DataFrame]


def test_each_score_is_found_with_its_limits_and_what_is_beyond(some_tables: Tables) -> None:
    found = {item.score.column: item for item in distributions(some_tables, SETTINGS)}
    assert found["motion_score"].low == 0.01 and found["motion_score"].high is None
    assert found["motion_score"].outside == 1 and len(found["motion_score"].values) == 7
    assert found["motion_score"].accepted.sum() == 4
    assert found["words"].values.tolist() == [6.0] * 4 and found["words"].low == 3


def test_every_limit_of_the_table_of_scores_is_in_the_table_of_its_stage(some_workspace: Path) -> None:
    settings = read_limits({stage: some_workspace / "datasets" / stage for stage in TABLES})
    assert set(settings) == set(LIMITED) == set(PARAMS)
    drawn = [path for score in SCORES for path in (score.low, score.high) if path]
    assert len(drawn) >= 16 and all(limit(settings, path) == limit(SETTINGS, path) for path in drawn)
    assert all(path.split(".")[0] == score.stage for score in SCORES for path in (score.low, score.high) if path)


@pytest.mark.parametrize("stage", LIMITED)
def test_a_table_without_its_settings_is_refused_by_name(some_workspace: Path, tmp_path: Path, stage: str) -> None:
    table = some_workspace / "datasets" / stage / TABLES[stage]
    write_table(tmp_path / TABLES[stage], read_table(table))
    folders = {name: some_workspace / "datasets" / name for name in TABLES} | {stage: tmp_path}
    with pytest.raises(ValueError, match=rf"{TABLES[stage]} does not say by .* run stage {stage} again"):
        read_limits(folders)


def test_a_limit_that_is_no_setting_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match=r"no number clips\.filters\.min_magic .* of stage clips: run that stage again"
    ):
        limit(SETTINGS, "clips.filters.min_magic")


def test_a_column_that_a_stage_adds_is_shown_without_a_line_for_it(some_tables: Tables) -> None:
    more = {**some_tables, "trajscene": some_tables["trajscene"].assign(swapped_frames=0.25)}
    added = next(item for item in distributions(more, SETTINGS) if item.score.column == "swapped_frames")
    assert added.score.title == "Swapped frames" and added.values.tolist() == [0.25] * 3


def test_values_that_were_not_measured_or_are_infinite_are_counted_apart(some_tables: Tables) -> None:
    clips = some_tables["clips"].assign(motion_score=[np.nan, np.inf, 0.1, 0.2, np.nan, 0.3, 0.4])
    found = {item.score.column: item for item in distributions({**some_tables, "clips": clips}, SETTINGS)}
    motion = found["motion_score"]
    assert (motion.missing, motion.infinite, motion.values.tolist()) == (2, 1, [0.1, 0.2, 0.3, 0.4])


def distribution(values: list[float], low: float | None = None, high: float | None = None) -> Distribution:
    array = np.array(values, float)
    return Distribution(Score("clips", "x", "X"), array, np.ones(len(array), bool), 0, 0, low, high)


@pytest.mark.parametrize("values", [[0.0], [3.0, 3.0], [-1.0, 1.0], [1e-6, 1e6, 1.0], [0.0, 1e9]])
@pytest.mark.parametrize("high", [None, 0.0, 5.0])
def test_a_chart_holds_every_value_and_its_limit_and_is_the_same_twice(values: list[float], high: float | None) -> None:
    found = distribution(values, high=high)
    edges = bin_edges(found)[0]
    assert (np.diff(edges) > 0).all() and (high is None or edges[0] <= high <= edges[-1])
    svg = histogram_svg(found)
    assert svg == histogram_svg(found) and f"{len(values)} values" in svg and "var(--accent)" in svg


def test_a_score_without_values_has_no_chart() -> None:
    assert histogram_svg(distribution([])) == ""
