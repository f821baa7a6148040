"""Tables of the data stages made by hand, and a workspace around them with a video, labels and shards."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from more4d.data.sample import Sample, SampleView
from more4d.data.shards import write_shards
from more4d.data.tables import write_table
from more4d.data.tensors import write_arrays
from more4d.data.video import write_video
from more4d.presets import TINY
from more4d.report.curated.tables import TABLES
from more4d.settings import Section
from more4d.stages.captions import CaptionsParams
from more4d.stages.clips import ClipsParams
from more4d.stages.tracks import TracksParams
from more4d.stages.trajscene import TrajsceneParams

HOSTILE = """</td></script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">{{ 7*7 }}<!--'"&"""
FORMULA = '=HYPERLINK("http://example.com", "cats")'
PARAMS: dict[str, Section] = {
    "clips": ClipsParams.model_validate(TINY["clips"]),
    "captions": CaptionsParams.model_validate(TINY["captions"]),
    "tracks": TracksParams.model_validate(TINY["tracks"]),
    "trajscene": TrajsceneParams.model_validate(TINY["trajscene"]),
}
SETTINGS = {name: params.model_dump() for name, params in PARAMS.items()}
MakeTables = Callable[..., dict[str, pd.DataFrame]]


def source_row(videoid: str, reason: str = "", **changes: Any) -> dict[str, Any]:
    return {
        "videoid": videoid, "contentUrl": f"clips/{videoid}.mp4", "name": f"name of {videoid}", "duration": 2.0,
        "origin": "rendered" if videoid.startswith("r") else "real", "split": "train", "source_table": "t.csv",
        "source_row": 0, "licence": "MIT", "attribution": "somebody", "truth": "", "sha256": videoid * 2,
        "verdict": "rejected" if reason else "accepted", "reason": reason,
    } | changes  # fmt: skip


def clip_row(video: dict[str, Any], start: int = 0, reason: str = "", **changes: Any) -> dict[str, Any]:
    about = ("videoid", "name", "origin", "licence", "attribution", "truth", "split", "source_table", "source_row")
    clip = f"{video['videoid']}-{start:05d}"
    digits = f"{hash_of(clip):048x}"
    return {
        "clip_id": clip, **{key: video[key] for key in about}, "start_frame": start, "start_seconds": start / 8,
        "frames": 5, "fps": 8.0, "path": "" if reason else f"clips/{clip}.mp4", "perceptual_hash": digits,
        "motion_score": 0.2, "camera_motion_score": 0.001, "verdict": "rejected" if reason else "accepted",
        "reason": reason,
    } | changes  # fmt: skip


def hash_of(text: str) -> int:
    return int.from_bytes(np.random.default_rng(list(text.encode())).bytes(24))


_STAGE_COLUMNS: dict[str, dict[str, Any]] = {
    "captions": {"caption": "a dog runs over the grass"},
    "selection": {},
    "depth": {"licence": "MIT", "median_depth_m": 4.0, "focal_px": 90.0, "model": "net"},
    "tracks": {"licence": "MIT", "depth_licence": "MIT", "visible_share": 0.9, "moving_share": 0.2, "tracker": "flow"},
    "trajscene": {
        "anomalous_share": 0.0,
        "depth_deviation": 0.5,
        "scale_change": 0.001,
        "flow_error": 0.3,
        "unexplained_change": 0.02,
    },
}


def make_tables(
    videos: list[dict[str, Any]],
    clips: list[dict[str, Any]],
    ends: dict[str, tuple[str, str]] | None = None,
    **columns: dict[str, Any],
) -> dict[str, pd.DataFrame]:
    """The tables of rows and windows; `ends` says of a clip at which later stage it was rejected and why."""
    tables = {"source": pd.DataFrame(videos), "clips": pd.DataFrame(clips)}
    going = [row["clip_id"] for row in clips if row["verdict"] == "accepted"]
    for stage, values in _STAGE_COLUMNS.items():
        rows = []
        for clip in going:
            at, why = (ends or {}).get(clip, ("", ""))
            judged = {"verdict": "rejected" if at == stage else "accepted", "reason": why if at == stage else ""}
            rows.append({"clip_id": clip, **values, **columns.get(stage, {}), **judged})
        tables[stage] = pd.DataFrame(rows, columns=None if rows else ["clip_id", *values, "verdict", "reason"])
        going = [row["clip_id"] for row in rows if row["verdict"] == "accepted"]
    return tables


def write_workspace(root: Path, tables: dict[str, pd.DataFrame]) -> Path:
    """Puts the tables, a video for each row, labels and shards under `root`, as the stages leave them."""
    rng = np.random.default_rng(0)
    video = rng.integers(0, 255, (9, 32, 48, 3), dtype=np.uint8)
    for stage, name in TABLES.items():
        folder = root / "datasets" / stage
        (folder / "clips").mkdir(parents=True)
        write_table(folder / name, tables[stage], PARAMS.get(stage))
    for row in tables["source"].to_dict("records"):
        if row["verdict"] == "accepted":
            write_video(root / "datasets/source" / row["contentUrl"], video, 8.0, lossless=True)
    for row in tables["clips"].to_dict("records"):
        if row["path"]:
            write_video(root / "datasets/clips" / row["path"], video[:5], 8.0, lossless=True)
    for stage in ("depth", "tracks"):
        for row in tables[stage].to_dict("records"):
            if row["verdict"] == "accepted":
                arrays = {"depths": _DEPTH[None], "points": _POINTS, "visibility": _SEEN, "intrinsics": _CAMERA}
                write_arrays(root / "datasets" / stage / f"{row['clip_id']}.safetensors", arrays, {})
    _write_samples(root / "datasets/trajscene", tables, video[:5])
    return root


_DEPTH = np.full((32, 48), 4.0, np.float32)
_CAMERA = np.array([[48, 0, 24], [0, 48, 16], [0, 0, 1]], np.float32)
_V, _U = np.indices((32, 48)) + 0.5
_FIRST = np.stack([(_U - 24) / 12, (_V - 16) / 12, _DEPTH], -1).astype(np.float32)
_POINTS = _FIRST + np.arange(5, dtype=np.float32)[:, None, None, None] * np.array([0.2, 0, 0], np.float32)
_SEEN = np.ones((5, 32, 48), bool)


def _write_samples(folder: Path, tables: dict[str, pd.DataFrame], video: np.ndarray) -> None:
    kept = tables["trajscene"].query("verdict == 'accepted'")["clip_id"]
    about = {row["clip_id"]: row for row in tables["clips"].to_dict("records")}
    mask = np.ones((5, 32, 48), bool)
    mask[:, :, 40:] = False
    view = SampleView(None, np.tile(np.eye(4, dtype=np.float32), (5, 1, 1)), video, mask)
    samples = [
        Sample(
            id=clip, video=video, fps=8.0, caption="a dog", intrinsics=_CAMERA, depth=_DEPTH, points=_POINTS,
            visibility=_SEEN, render=video, render_mask=mask, split=about[clip]["split"], kind=about[clip]["origin"],
            views={"circle_left": view},
        )
        for clip in kept
    ]  # fmt: skip
    for split in ("train", "val"):
        write_shards([s for s in samples if s.split == split], folder, split=split, shard_bytes=10**7)


def run_tables() -> dict[str, pd.DataFrame]:
    """Six rows: three real videos (one gone), three rendered ones, one of them to validate with, one distractor."""
    videos = [
        source_row("street", licence="CC-BY-NC-4.0", source_row=0),
        source_row("gone", "gone.mp4 does not exist", name=HOSTILE, source_row=1, contentUrl="https://x/gone.mp4"),
        source_row("park", name=HOSTILE, source_row=2),
        *(source_row(f"r{i}", source_table="rendered", source_row=i, split="val" if i == 2 else "train")
          for i in range(3)),
    ]  # fmt: skip
    for video in videos:
        video["distractor"] = "cut" if video["videoid"] == "r0" else ""
    street, park, *rendered = (row for row in videos if row["verdict"] == "accepted")
    clips = [
        clip_row(street),
        clip_row(street, 4, "static: nothing moves by more than 0.0012 (below 0.01)", motion_score=0.0012),
        clip_row(
            park, reason="the camera moves by 0.03 (above 0.01); too dark: brightness 0.010 (outside 0.08 to 0.92)"
        ),
        clip_row(park, 4),
        clip_row(rendered[0], reason="cut inside: a shot boundary after 3 of 5 frames"),
        clip_row(rendered[1]),
        clip_row(rendered[2]),
    ]
    why = "only 23% of the points are visible (below 30%)"
    return make_tables(videos, clips, {"park-00004": ("tracks", why)})


@pytest.fixture(scope="session")
def some_tables() -> dict[str, pd.DataFrame]:
    return run_tables()


@pytest.fixture(scope="session")
def some_workspace(some_tables: dict[str, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workspace(tmp_path_factory.mktemp("curated"), some_tables)
