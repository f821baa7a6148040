"""Claims about more4d.stages.captions."""

from typing import Any

from more4d.data.tables import read_table


def test_every_clip_has_its_tables_caption_and_says_who_wrote_it(lineage: Any) -> None:
    rows = read_table(lineage.root / "datasets" / "captions" / "captions.parquet").to_dict("records")
    captions = {row["clip_id"]: row["caption"] for row in rows}
    assert captions["walk-00000"] == "A dog runs to the right"
    assert {(row["captioner"], row["captioner_version"]) for row in rows} == {("table", "1")}


def test_too_short_a_caption_is_rejected_with_its_length(branch: Any) -> None:
    branch.run("captions", min_words=5, max_rejected_share=1)
    rows = read_table(branch.root / "datasets" / "captions" / "captions.parquet").to_dict("records")
    assert {row["reason"] for row in rows if row["clip_id"].startswith("cut")} == {"the caption has 3 words (below 5)"}
