import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from more4d.report.curated.journey import STAGES, follow, funnel, funnels_by

from tests.more4d.report.curated.conftest import clip_row, make_tables, source_row

Tables = dict[str, pd.DataFrame]


def test_every_row_and_window_ends_once_and_with_its_reason(some_tables: Tables) -> None:
    journey = follow(some_tables)
    ends = {row["clip_id"] or row["videoid"]: (row["stage"], row["verdict"]) for row in journey.to_dict("records")}
    assert ends == {
        "gone": ("source", "rejected"),
        "street-00000": ("trajscene", "accepted"),
        "street-00004": ("clips", "rejected"),
        "park-00000": ("clips", "rejected"),
        "park-00004": ("tracks", "rejected"),
        "r0-00000": ("clips", "rejected"),
        "r1-00000": ("trajscene", "accepted"),
        "r2-00000": ("trajscene", "accepted"),
    }
    reasons = dict(zip(journey["clip_id"], journey["reason"], strict=True))
    assert reasons["park-00004"] == "only 23% of the points are visible (below 30%)"
    assert reasons["street-00000"] == "" and reasons[""] == "gone.mp4 does not exist"


def test_the_funnel_counts_rows_then_windows(some_tables: Tables) -> None:
    counts = {step.stage: (step.unit, step.entered, step.kept, step.rejected) for step in funnel(follow(some_tables))}
    assert counts == {
        "source": ("rows", 6, 5, 1),
        "clips": ("windows", 7, 4, 3),
        "captions": ("windows", 4, 4, 0),
        "selection": ("windows", 4, 4, 0),
        "depth": ("windows", 4, 4, 0),
        "tracks": ("windows", 4, 3, 1),
        "trajscene": ("windows", 3, 3, 0),
    }


@st.composite
def runs(draw: st.DrawFn) -> Tables:
    """Tables of a run in which anything may be rejected anywhere, and some rows are missing."""
    videos, clips, ends = [], [], {}
    for i in range(draw(st.integers(0, 5))):
        video = source_row(f"{draw(st.sampled_from('rv'))}{i}", draw(st.sampled_from(["", "", "gone"])), source_row=i)
        videos.append(video)
        for start in range(draw(st.integers(0, 3)) if not video["reason"] else 0):
            clips.append(clip_row(video, start, draw(st.sampled_from(["", "", "static"]))))
            ends[clips[-1]["clip_id"]] = (draw(st.sampled_from(["", *STAGES[2:]])), "a reason")
    columns = (list(source_row("v")), list(clip_row(source_row("v"))))
    tables = make_tables(videos, clips, ends)
    tables |= {"source": pd.DataFrame(videos, columns=columns[0]), "clips": pd.DataFrame(clips, columns=columns[1])}
    lost = draw(st.sampled_from(STAGES[2:]))
    if draw(st.booleans()):
        gone = set(tables[lost]["clip_id"][:1])
        for stage in STAGES[STAGES.index(lost) :]:
            tables[stage] = tables[stage][~tables[stage]["clip_id"].isin(gone)]
    return tables


@settings(max_examples=60, deadline=None)
@given(runs())
def test_at_every_stage_all_that_entered_is_kept_rejected_or_lost(tables: Tables) -> None:
    journey = follow(tables)
    steps = funnel(journey)
    assert steps[0].entered == len(tables["source"])
    without = steps[0].kept - tables["clips"]["videoid"].nunique()
    assert steps[1].entered == len(tables["clips"]) + without
    for before, step in zip(steps[1:], steps[2:], strict=False):
        assert step.entered == before.kept
    for step in steps:
        assert step.entered == step.kept + step.rejected + step.lost
        assert step.rejected == int((tables[step.stage]["verdict"] == "rejected").sum())
    assert steps[-1].kept == int((journey["verdict"] == "accepted").sum())


@settings(max_examples=30, deadline=None)
@given(runs())
def test_the_parts_of_a_funnel_add_up_to_the_whole(tables: Tables) -> None:
    journey = follow(tables)
    parts = list(funnels_by(journey, ["origin", "split"]).values())
    for place, step in enumerate(funnel(journey)):
        for count in ("entered", "kept", "rejected", "lost"):
            assert sum(getattr(part[place], count) for part in parts) == getattr(step, count)


def test_a_window_that_a_stage_forgot_is_lost_not_left_out(some_tables: Tables) -> None:
    depth = some_tables["depth"]
    later = {
        name: table[table["clip_id"] != "r1-00000"] for name, table in some_tables.items() if "origin" not in table
    }
    journey = follow({**some_tables, **{name: later[name] for name in ("depth", "tracks", "trajscene")}})
    step = {step.stage: step for step in funnel(journey)}["depth"]
    assert (step.entered, step.kept, step.lost) == (len(depth), len(depth) - 1, 1)
    assert "not in the table of stage depth" in set(journey["reason"])


def test_a_video_without_any_window_is_lost(some_tables: Tables) -> None:
    videos = pd.concat([some_tables["source"], pd.DataFrame([source_row("mute")])], ignore_index=True)
    journey = follow({**some_tables, "source": videos})
    assert journey.set_index("videoid").loc["mute", ["stage", "verdict"]].tolist() == ["clips", "lost"]


@pytest.mark.parametrize("stage", ["captions", "tracks", "trajscene"])
def test_tables_of_different_runs_are_refused_by_name(some_tables: Tables, stage: str) -> None:
    stray = some_tables[stage].assign(clip_id="other-00000").head(1)
    with pytest.raises(ValueError, match=rf"stage {stage} holds 1 clips that stage .* did not accept.*other-00000"):
        follow({**some_tables, stage: pd.concat([some_tables[stage], stray])})


def test_a_clip_twice_in_a_table_is_refused(some_tables: Tables) -> None:
    with pytest.raises(ValueError, match="stage depth has 'street-00000' in several rows"):
        follow({**some_tables, "depth": pd.concat([some_tables["depth"], some_tables["depth"].head(1)])})
