import pandas as pd
import pytest
from more4d.report.curated.journey import follow
from more4d.report.curated.reasons import KINDS_SHOWN, fold, folding, reason_kinds

from tests.more4d.report.curated.conftest import clip_row, make_tables, source_row


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("only 23% of the points are visible (below 30%)", "only …% of the points are visible (below …%)"),
        ("cut inside: a shot boundary after 9 of 13 frames", "cut inside: a shot boundary after … of … frames"),
        ("log depth deviates by inf (above 1.3)", "log depth deviates by … (above …)"),
        ("near-duplicate of bikes-00010: 0.0312 of the bits differ", "near-duplicate of <name>: … of the bits differ"),
        ("bikes.mp4 does not exist", "<name> does not exist"),
        ("gone.webm is a directory", "<name> is a directory"),
        ("https://a.example/b.mp4?k=1 answers 404", "<address> answers …"),
        ("renders at scale 1 and 1.25 differ by -1e-3", "renders at scale … and … differ by …"),
        ("the codec h264 is not known", "the codec h264 is not known"),
        ("", "no reason given"),
    ],
)
def test_numbers_names_and_addresses_are_folded(reason: str, kind: str) -> None:
    assert fold(reason, {"bikes", "bikes-00010", "a", "is"}) == kind


def test_kinds_are_counted_by_stage_with_an_example(some_tables: dict[str, pd.DataFrame]) -> None:
    journey = follow(some_tables)
    kinds = {(kind.stage, kind.text): kind for kind in reason_kinds(journey)}
    assert {key: kind.count for key, kind in kinds.items()} == {
        ("source", "<name> does not exist"): 1,
        ("clips", "static: nothing moves by more than … (below …)"): 1,
        ("clips", "the camera moves by … (above …)"): 1,
        ("clips", "too dark: brightness … (outside … to …)"): 1,
        ("clips", "cut inside: a shot boundary after … of … frames"): 1,
        ("tracks", "only …% of the points are visible (below …%)"): 1,
    }
    dark = kinds["clips", "too dark: brightness … (outside … to …)"]
    assert dark.example_reason == "too dark: brightness 0.010 (outside 0.08 to 0.92)"
    assert journey["clip_id"].iloc[dark.example] == "park-00000"


def test_a_part_is_folded_with_the_names_of_the_whole_journey() -> None:
    one, other = source_row("bikes"), source_row("boats", source_table="u.csv")
    clips = [clip_row(one), clip_row(other, reason="near-duplicate of bikes-00000: 0.03 of the bits differ")]
    journey = follow(make_tables([one, other], clips))
    (kind,) = reason_kinds(journey.query("videoid == 'boats'"), folding(journey))
    assert kind.text == "near-duplicate of <name>: … of the bits differ"


def test_free_text_is_cut_at_the_colon_and_the_rest_is_one_kind() -> None:
    video = source_row("v")
    words = [f"{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(3 * KINDS_SHOWN)]
    clips = [clip_row(video, i) for i in range(len(words))]
    ends = {
        clip["clip_id"]: ("selection", f"countable no: {word} is water")
        for clip, word in zip(clips, words, strict=True)
    }
    kinds = reason_kinds(follow(make_tables([video], clips, ends)))
    assert [(kind.text, kind.count) for kind in kinds] == [("countable no", len(words))]
    assert kinds[0].example_reason == "countable no: aa is water"
    ends = {clip["clip_id"]: ("selection", f"{word}: no") for clip, word in zip(clips, words, strict=True)}
    kinds = reason_kinds(follow(make_tables([video], clips, ends)))
    assert len(kinds) == KINDS_SHOWN + 1 and kinds[0].text == "other reasons"
    assert sum(kind.count for kind in kinds) == len(words)
