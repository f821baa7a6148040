from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from more4d.data.sample import Sample
from more4d.data.shards import write_shards
from more4d.data.tables import write_table
from more4d.data.video import write_video
from more4d.inference.scene import Scene
from more4d.report.gallery import collect_funnel, collect_gallery, reason_kind

MakeScene = Callable[..., Scene]


def sample(scene: Scene, clip: str) -> Sample:
    view = scene.views["static"]
    return Sample(
        id=clip, video=view.video, fps=8.0, caption=f"caption of {clip}", intrinsics=scene.intrinsics, depth=scene.depth,
        points=scene.points, visibility=scene.visibility, render=view.render, render_mask=view.covered, split="train",
        kind="real" if clip.startswith("street") else "rendered",
    )  # fmt: skip


def clip_row(clip: str, reason: str = "") -> dict:
    video, start = clip.rsplit("-", 1)
    return {
        "clip_id": clip,
        "videoid": video,
        "name": f"name of {video}",
        "origin": "real" if video == "street" else "rendered",
        "start_seconds": int(start) / 8,
        "path": "" if reason else f"clips/{clip}.mp4",
        "verdict": "rejected" if reason else "accepted",
        "reason": reason,
    }


@pytest.fixture(scope="module")
def workspace(make_scene: MakeScene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, five clips of which two are rejected by stage clips and one by selection, two samples."""
    root = tmp_path_factory.mktemp("workspace")
    data, scene = root / "datasets", make_scene()
    for folder in ("source/clips", "clips/clips", "selection", "trajscene"):
        (data / folder).mkdir(parents=True)
    videos = [
        {"videoid": v, "contentUrl": f"clips/{v}.mp4", "verdict": "accepted", "reason": ""} for v in ("a", "street")
    ]
    write_table(data / "source/table.parquet", pd.DataFrame(videos))
    write_video(data / "source/clips/street.mp4", scene.views["static"].video, 8.0)
    rows = [clip_row("a-00000"), clip_row("street-00000"), clip_row("street-00013")]
    rows += [clip_row("street-00004", "static: 0.1 % moves; brightness 3"), clip_row("a-00013", "static: 0.2 % moves")]
    write_table(data / "clips/clips.parquet", pd.DataFrame(rows))
    write_video(data / "clips/clips/street-00013.mp4", scene.views["static"].video, 8.0)
    judged = [{"clip_id": "a-00000", "verdict": "accepted", "reason": ""}]
    judged += [{"clip_id": "street-00013", "verdict": "rejected", "reason": "self-initiated no: it is pushed"}]
    write_table(data / "selection/selection.parquet", pd.DataFrame(judged))
    write_shards(
        [sample(scene, c) for c in ("a-00000", "street-00000")], data / "trajscene", split="train", shard_bytes=10**6
    )
    return root


def test_the_funnel_counts_kinds_of_reasons_of_every_stage_that_ran(workspace: Path) -> None:
    steps = {step.stage: (step.kept, step.rejected, step.reasons) for step in collect_funnel(workspace)}
    assert steps == {
        "source": (2, 0, ()),
        "clips": (3, 2, (("static", 2),)),
        "selection": (1, 1, (("self-initiated no", 1),)),
    }


def test_the_gallery_shows_samples_of_both_origins_with_four_pictures(workspace: Path) -> None:
    kept = [item for item in collect_gallery(workspace) if item.kept]
    assert [(item.clip, item.origin, item.caption) for item in kept] == [
        ("street-00000", "real", "caption of street-00000"),
        ("a-00000", "rendered", "caption of a-00000"),
    ]
    assert [label for label, _ in kept[0].panels] == ["first frame", "tracks", "depth", "points, last frame"]


def test_rejected_clips_are_shown_with_stage_reason_and_what_picture_there_is(workspace: Path) -> None:
    rejected = {item.clip: item for item in collect_gallery(workspace) if not item.kept}
    assert {clip: (item.stage, item.reason, len(item.panels)) for clip, item in rejected.items()} == {
        "street-00004": ("clips", "static: 0.1 % moves; brightness 3", 1),
        "street-00013": ("selection", "self-initiated no: it is pushed", 1),
        "a-00013": ("clips", "static: 0.2 % moves", 0),
    }
    assert rejected["street-00013"].caption == "name of street"


def test_an_empty_workspace_has_no_gallery(tmp_path: Path) -> None:
    assert collect_funnel(tmp_path) == () and collect_gallery(tmp_path) == ()


def test_reasons_that_differ_in_numbers_alone_are_one_kind() -> None:
    assert reason_kind("cut inside: a shot boundary after 9 of 13 frames") == "cut inside"
    assert reason_kind("the caption has 2 words (below 3)") == "the caption has … words (below …)"
    assert reason_kind("") == "no reason given"
