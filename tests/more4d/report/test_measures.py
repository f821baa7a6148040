import json
from pathlib import Path

import pytest
from more4d.report.measures import collect_base_tables, collect_tables, evaluation_tables
from more4d.report.model import Estimate

FIGURES = {
    "scenes": 64,
    "model_moving_ratio": 0.61,
    "model_moving_ratio_low": 0.57,
    "model_moving_ratio_high": 0.66,
    "model_all_ratio": 0.9,
    "caption_lookup_moving_ratio": 0.7,
    "caption_lookup_all_ratio": float("nan"),
    "views": 12,
    "hole_psnr": 18.0,
    "hole_telea_psnr": 16.0,
    "view_psnr": 24.0,
    "view_telea_psnr": 23.0,
    "depth_log_error": 0.1,
    "depth_plane_log_error": 0.5,
    "depth_plane_ratio": 5.0,
    "stereo_motorcycle_error": 0.2,
    "stereo_motorcycle_plane_error": 0.4,
    "stereo_motorcycle_correlation": 0.8,
}


def test_the_trajectory_table_sets_the_network_beside_the_baselines() -> None:
    table = evaluation_tables(FIGURES)[0]
    assert table.title == "Trajectory error, 64 held-out scenes"
    assert [row.label for row in table.rows] == ["4D-STraG", "nothing moves", "caption look-up"]
    assert [row.ours for row in table.rows] == [True, False, False]
    assert table.rows[0].values == (Estimate(0.61, 0.57, 0.66), Estimate(0.9))
    assert table.rows[1].values == (Estimate(1.0), Estimate(1.0))
    assert table.rows[2].values == (Estimate(0.7), None)


def test_views_are_compared_with_inpainting_in_the_holes_first() -> None:
    table = evaluation_tables(FIGURES)[1]
    assert table.columns == ("in holes", "whole picture")
    assert [row.values for row in table.rows] == [(Estimate(18), Estimate(24)), (Estimate(16), Estimate(23))]


def test_depth_is_compared_with_a_plane_on_scenes_and_stereo_pairs() -> None:
    table = evaluation_tables(FIGURES)[2]
    assert [row.label for row in table.rows] == ["held-out scenes", "motorcycle (stereo pair)"]
    assert table.rows[0].values == (Estimate(0.1), Estimate(0.5), Estimate(5.0))
    assert table.rows[1].values == (Estimate(0.2), Estimate(0.4), None)


def test_figures_that_were_not_measured_leave_their_table_out() -> None:
    assert evaluation_tables({"scenes": 4}) == ()


@pytest.mark.parametrize(
    "grouped", [FIGURES, {"trajectories": FIGURES}, {"a": {"scenes": 64}, "b": {"model_moving_ratio": 0.61}}]
)
def test_figures_may_be_grouped(tmp_path: Path, grouped: dict) -> None:
    folder = tmp_path / "results" / "evaluation"
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(json.dumps(grouped))
    assert collect_tables(tmp_path)[0].rows[0].values[0] is not None


def test_the_base_metrics_read_as_a_table_of_the_same_kind(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "tiny-base"
    folder.mkdir(parents=True)
    metrics = {
        "scenes": 256,
        "moving_ratio": 0.6,
        "moving_ratio_interval": [0.5, 0.7],
        "all_ratio": 0.9,
        "all_ratio_interval": [0.8, 1.0],
        "baselines": {"nothing_moves": {"moving": 1.0, "all": 1.0}, "vae": {"moving": 0.2, "all": 0.5}},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (table,) = collect_base_tables(tmp_path)
    assert table.title == "Trajectory error of the committed tiny base, 256 held-out scenes"
    assert table.rows[0].values == (Estimate(0.6, 0.5, 0.7), Estimate(0.9, 0.8, 1.0))
    assert table.rows[2].values == (Estimate(0.2), Estimate(0.5))
