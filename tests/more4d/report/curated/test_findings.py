from typing import Any

import pandas as pd
from more4d.data.tables import DISTRACTOR_PASSED
from more4d.report.curated.findings import findings
from more4d.report.curated.journey import follow
from more4d.report.curated.sources import doubt, licence_counts, real_videos, source_summaries

from tests.more4d.report.curated.conftest import SETTINGS, clip_row, make_tables, source_row

Tables = dict[str, pd.DataFrame]


def found(tables: Tables, stored: dict[str, int] | None = None) -> dict[str, list[str]]:
    journey = follow(tables)
    held = journey[journey["verdict"] == "accepted"]["split"].value_counts().to_dict() if stored is None else stored
    sentences: dict[str, list[str]] = {"problem": [], "warning": [], "fine": []}
    for item in findings(journey, tables, SETTINGS, held, licence_counts(journey, tables)):
        sentences[item.level].append(item.sentence)
    return sentences


def pair(train: dict[str, Any] | None = None, val: dict[str, Any] | None = None, **columns: dict[str, Any]) -> Tables:
    """A video to train on and one to validate with, a sample each."""
    videos = [source_row("a"), source_row("b", split="val")]
    clips = [clip_row(videos[0], **(train or {})), clip_row(videos[1], **(val or {}))]
    return make_tables(videos, clips, **columns)


def test_sound_data_gives_neither_a_problem_nor_a_warning() -> None:
    tables = pair()
    tables["captions"]["caption"] = ["one dog runs", "two cats jump"]
    sentences = found(tables)
    assert sentences["problem"] == sentences["warning"] == [] and len(sentences["fine"]) == 8


def test_a_caption_of_val_that_train_has_too_is_a_warning() -> None:
    assert any("1 of 1 val samples have a caption that train has too" in text for text in found(pair())["warning"])


def test_a_video_in_train_and_val_is_a_problem_by_id_and_by_bytes() -> None:
    by_id = pair()
    by_id["clips"].loc[1, "videoid"] = "a"
    assert "1 videos give samples to both train and val: a" in found(by_id)["problem"]
    by_bytes = pair()
    by_bytes["source"]["sha256"] = "0" * 64
    assert "2 videos give samples to both train and val: a, b" in found(by_bytes)["problem"]


def test_a_val_sample_that_looks_like_a_train_sample_is_a_problem() -> None:
    bits = (1 << 192) - 1
    near = pair({"perceptual_hash": f"{bits:048x}"}, {"perceptual_hash": f"{bits ^ 0b1011:048x}"})
    assert any(
        "1 of 1 val samples look like one of train" in text and "b-00000" in text for text in found(near)["problem"]
    )
    far = pair({"perceptual_hash": f"{bits:048x}"}, {"perceptual_hash": f"{bits >> 96:048x}"})
    assert found(far)["problem"] == []


def test_shards_that_hold_other_samples_than_the_verdicts_are_a_problem() -> None:
    problems = found(pair(), {"train": 1, "val": 0})["problem"]
    assert problems == ["The shards hold 1 in train, the verdicts name 1 in train, 1 in val."]


def test_licences_that_forbid_commercial_use_are_named_with_their_samples() -> None:
    tables = pair(tracks={"licence": "CC BY-NC-SA 4.0"})
    (sentence,) = (text for text in found(tables)["warning"] if "commercial" in text)
    assert "2 samples' tracks: CC BY-NC-SA 4.0 (not for commercial use)" in sentence


def test_doubts_are_read_off_a_licences_words() -> None:
    assert [doubt(text) for text in ("MIT", "CC-BY-4.0", "Apache-2.0; fox CC-BY-4.0")] == ["", "", ""]
    assert {doubt(text) for text in ("CC-BY-NC-4.0", "Non-commercial", "for research only")} == {
        "not for commercial use"
    }
    assert {doubt(text) for text in ("", "unknown", " N/A ")} == {"no licence is stated"}
    assert doubt("BSD-3-Clause (of the package; no statement of its own)") == "not stated for the video itself"


def test_samples_in_which_hardly_anything_moves_are_counted() -> None:
    still = found(pair(tracks={"moving_share": 0.001}))["warning"]
    assert "On average 0.1% of a sample's points move (median 0.1%); in 2 samples fewer than 1%." in still


def test_no_sample_to_validate_with_is_a_warning(some_tables: Tables) -> None:
    only_train = {**some_tables, "clips": some_tables["clips"].assign(split="train")}
    assert "No sample is in val." in found(only_train)["warning"]


def test_distractors_that_passed_every_filter_are_a_warning(some_tables: Tables) -> None:
    assert "Each of 1 distractors was refused for what it is." in found(some_tables)["fine"]
    tables = pair()
    tables["source"]["distractor"] = ["still", ""]
    tables["trajscene"].loc[0, ["verdict", "reason"]] = "rejected", DISTRACTOR_PASSED
    (warning,) = [text for text in found(tables, {"train": 0, "val": 1})["warning"] if "distractors" in text]
    assert warning == "1 of 1 distractors passed every filter (1 still); the last stage refused them by name."


def test_tables_without_any_sample_give_findings_too() -> None:
    video = source_row("a")
    empty = make_tables([video], [clip_row(video, reason="static")])
    assert "No sample is in train and none in val." in found(empty, {})["warning"]


def test_source_tables_are_summed_up_with_reasons_licences_and_attribution(some_tables: Tables) -> None:
    first, second = source_summaries(follow(some_tables))
    assert (first.name, first.origin, first.rows, first.fetched, first.windows, first.samples) == (
        "rendered", "rendered", 3, 3, 3, 2,
    )  # fmt: skip
    assert (second.name, second.rows, second.fetched, second.windows, second.samples) == ("t.csv", 3, 2, 4, 1)
    assert second.licences == ("MIT", "CC-BY-NC-4.0") and second.attributions == ("somebody",)
    assert sum(kind.count for kind in second.reasons) == 4


def test_every_real_video_says_why_its_windows_were_not_kept(some_tables: Tables) -> None:
    videos = {video.videoid: video for video in real_videos(follow(some_tables), 10)}
    assert set(videos) == {"street", "gone", "park"}
    assert videos["gone"].ends == (("source", "gone.mp4 does not exist", 1),)
    assert (videos["street"].windows, videos["street"].samples) == (2, 1)
    assert [stage for stage, _, _ in videos["park"].ends] == ["clips", "tracks"]
    assert len(real_videos(follow(some_tables), 2)) == 2
