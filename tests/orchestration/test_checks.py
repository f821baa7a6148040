import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from more4d.data.shards import EncodedSample, write_encoded
from more4d_orchestration.checks import Verdict, find_check
from more4d_orchestration.manifest import DagsterMeta, Out, Recipe, StageNode
from more4d_orchestration.report import StageReport
from more4d_orchestration.workspace import LockEntry

OUTS = (Out("data", "data"), Out("metrics.json", "metric"), Out("curve.csv", "plot", "step", "loss"))


def _report(root: Path, params: Mapping[str, Any] | None = None, outs: tuple[Out, ...] = OUTS) -> StageReport:
    recipe = Recipe(("true",), {"params.yaml": {"stage": dict(params or {})}}, {})
    node = StageNode("stage", "", (), root, (), (), outs, (), ("data",), recipe, DagsterMeta(), 1)
    return StageReport(root, node, LockEntry(recipe, {}, ""))


def _check(root: Path, name: str, *, params: Mapping[str, Any] | None = None, **options: object) -> Verdict:
    return find_check(name, options)(_report(root, params))


def _table(root: Path, accepted: int, rejected: int) -> None:
    (root / "data").mkdir(exist_ok=True)
    rows = [("accepted", "")] * accepted + [("rejected", "static")] * rejected
    pd.DataFrame(rows, columns=["verdict", "reason"]).to_parquet(root / "data" / "table.parquet")


def test_a_folder_without_bytes_is_empty(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "nothing.txt").touch()
    assert not _check(tmp_path, "not_empty").passed
    (tmp_path / "data" / "something.txt").write_text("x")
    assert _check(tmp_path, "not_empty").passed


@pytest.mark.parametrize(("accepted", "rejected", "passed"), [(0, 0, False), (0, 3, False), (1, 3, True)])
def test_a_table_without_accepted_rows_is_empty(tmp_path: Path, accepted: int, rejected: int, passed: bool) -> None:
    _table(tmp_path, accepted, rejected)
    verdict = _check(tmp_path, "not_empty")
    assert verdict.passed is passed
    assert verdict.figures["rows in data/table.parquet"] == accepted + rejected


@pytest.mark.parametrize(("ids", "passed"), [([], False), (["a"], True)])
def test_a_manifest_without_samples_is_empty(tmp_path: Path, ids: list[str], passed: bool) -> None:
    write_encoded([EncodedSample(i, {"txt": b"x"}) for i in ids], tmp_path / "data", split="train", shard_bytes=10)
    verdict = _check(tmp_path, "not_empty")
    assert verdict.passed is passed
    assert verdict.figures["samples in data, split train"] == len(ids)


def test_a_flood_of_rejects_fails_above_the_limit_and_names_the_reasons(tmp_path: Path) -> None:
    _table(tmp_path, 4, 6)
    verdict = _check(tmp_path, "no_reject_flood")
    assert not verdict.passed and "60%" in verdict.sentence and "static (6)" in verdict.sentence
    assert _check(tmp_path, "no_reject_flood", max_share=0.6).passed


def test_the_limit_of_rejects_is_the_stages_own_parameter(tmp_path: Path) -> None:
    _table(tmp_path, 4, 6)
    assert _check(tmp_path, "no_reject_flood", params={"max_rejected_share": 0.7}).passed
    assert not _check(tmp_path, "no_reject_flood", params={"max_rejected_share": 0.2}).passed


@pytest.mark.parametrize(("text", "passed"), [('{"a": {"b": 1}}', True), ('{"a": NaN}', False), ('{"a": "x"}', False)])
def test_metrics_are_finite_numbers_and_there_are_some(tmp_path: Path, text: str, passed: bool) -> None:
    (tmp_path / "metrics.json").write_text(text)
    assert _check(tmp_path, "finite_metrics").passed is passed


def _curve(root: Path, first: float, last: float) -> None:
    losses = [first] * 5 + [7.0] * 40 + [last] * 5
    pd.DataFrame({"step": range(50), "loss": losses}).to_csv(root / "curve.csv", index=False)


@pytest.mark.parametrize(("last", "passed"), [(0.5, True), (1.0, False), (float("nan"), False)])
def test_learned_compares_both_ends_of_the_loss(tmp_path: Path, last: float, passed: bool) -> None:
    _curve(tmp_path, 1.0, last)
    assert _check(tmp_path, "learned").passed is passed


@pytest.mark.parametrize(("last", "passed"), [(2.9, True), (3.1, False), (float("inf"), False)])
def test_a_fine_tuning_may_end_a_little_higher_but_not_diverge(tmp_path: Path, last: float, passed: bool) -> None:
    _curve(tmp_path, 1.0, last)
    assert _check(tmp_path, "not_diverged").passed is passed
    assert not _check(tmp_path, "not_diverged", factor=1.5).passed


def test_a_curve_without_points_has_not_learned(tmp_path: Path) -> None:
    (tmp_path / "curve.csv").write_text("step,loss\n")
    assert not _check(tmp_path, "learned").passed


def test_a_stage_without_a_training_curve_has_not_learned(tmp_path: Path) -> None:
    verdict = find_check("learned", {})(_report(tmp_path, outs=(Out("data", "data"),)))
    assert not verdict.passed and "no training curve" in verdict.sentence


def test_a_damaged_shard_is_found(tmp_path: Path) -> None:
    write_encoded([EncodedSample("a", {"txt": b"x"})], tmp_path / "data", split="train", shard_bytes=10)
    assert _check(tmp_path, "intact_shards").passed
    with (tmp_path / "data" / "train-000000.tar").open("r+b") as file:
        file.write(b"?")
    assert not _check(tmp_path, "intact_shards").passed


def test_unknown_checks_and_options_are_refused_listing_the_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not_empti.*not_empty"):
        find_check("not_empti", {})
    with pytest.raises(ValueError, match="no option share; its options are: max_share"):
        find_check("no_reject_flood", {"share": 1})


def test_rejections_are_counted_over_all_tables_and_shown_with_the_metrics(tmp_path: Path) -> None:
    _table(tmp_path, 1, 2)
    (tmp_path / "metrics.json").write_text(json.dumps({"rows": 3, "by": {"share": 0.5}}))
    pd.DataFrame({"step": [0, 1], "loss": [1.0, 0.5]}).to_csv(tmp_path / "curve.csv", index=False)
    report = _report(tmp_path)
    assert report.rejections() == {"static": 2}
    metadata = report.metadata()
    assert {"metric/rows", "metric/by.share", "rejected", "curve/curve.csv"} <= set(metadata)
