"""Claims about more4d.stages.selection."""

from typing import Any

from more4d.data.tables import read_table


def test_both_criteria_are_recorded_with_reasons(lineage: Any) -> None:
    rows = read_table(lineage.root / "datasets" / "selection" / "selection.parquet").to_dict("records")
    by_clip = {row["clip_id"]: row for row in rows}
    walk, sea = by_clip["walk-00000"], by_clip["sea-00000"]
    assert (walk["countable"], walk["self_motion"], walk["verdict"]) == ("yes", "yes", "accepted")
    assert (sea["countable"], sea["self_motion"], sea["verdict"]) == ("no", "no", "rejected")
    assert "names only wave, sea" in sea["reason"]
    assert "moved from outside alone: ripple" in sea["reason"]
    assert {row["judge"] for row in rows} == {"rules"}


def test_rendered_captions_pass(lineage: Any) -> None:
    rows = read_table(lineage.root / "datasets" / "selection" / "selection.parquet").to_dict("records")
    assert all(row["verdict"] == "accepted" for row in rows if row["clip_id"].startswith("rendered"))
