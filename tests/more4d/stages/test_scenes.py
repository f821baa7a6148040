import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from more4d.data.tables import write_table
from more4d.data.video import write_video
from more4d.inference.scene import read_description, read_scene
from more4d.stages import scenes
from more4d.stages.base import StageResult, VideoSpec, run_stage
from more4d.stages.scenes import STAGE, ScenesParams, frame_at
from pydantic import ValidationError

VIDEO = VideoSpec(frames=5, height=32, width=48, fps=8.0)


@pytest.fixture
def trained(workspace: Path, checkpoint: Path) -> Path:
    """A workspace with every network and two windows of one real clip."""
    for network in ("strag", "vism"):
        (workspace / "models" / network).mkdir()
        shutil.copy(checkpoint / f"{network}.safetensors", workspace / "models" / network)
    source, clips = workspace / "datasets" / "source", workspace / "datasets" / "clips"
    (source / "clips").mkdir(parents=True)
    clips.mkdir()
    shades = np.repeat(np.arange(20, 220, 20), 4)
    write_video(
        source / "clips" / "street.mp4", np.tile(shades[:, None, None, None], (1, 60, 90, 3)).astype(np.uint8), 8
    )
    row = {"videoid": "street", "verdict": "accepted", "reason": "", "licence": "CC0-1.0", "attribution": "nobody"}
    write_table(source / "table.parquet", pd.DataFrame([row | {"contentUrl": "clips/street.mp4"}]))
    windows = [
        row | {"clip_id": f"street-{start:05d}", "origin": "real", "name": "a car drives", "start_seconds": start / 8}
        for start in (8, 16)
    ]
    write_table(clips / "clips.parquet", pd.DataFrame(windows))
    return workspace


def _run(root: Path, **params: object) -> StageResult:
    fields: dict = {"photos": ("coffee",), "clips": 1, "render_scale": 2} | params
    return run_stage(STAGE, params=ScenesParams(**fields), video=VIDEO, seed=0, workers=1, root=root)


def test_photos_and_first_frames_of_clips_become_scene_folders(trained: Path) -> None:
    metrics = _run(trained).metrics
    folder = trained / "results" / "scenes"
    assert metrics["scenes"] == 2
    assert sorted(path.name for path in folder.iterdir()) == ["clip-street", "coffee"]
    coffee, street = read_scene(folder / "coffee"), read_scene(folder / "clip-street")
    assert coffee.credit.licence == "CC0-1.0" and set(coffee.views) == {"top_down", "circle_right"}
    assert street.prompt == "a car drives" and set(street.views) == {"circle_left"}
    # The first window starts at the third shade, a second into the video.
    assert street.image.mean() == pytest.approx(60, abs=4)
    assert (folder / "coffee" / "index.html").stat().st_size > 1000


def test_a_second_run_gives_the_same_bytes(trained: Path) -> None:
    _run(trained, clips=0)
    path = trained / "results" / "scenes" / "coffee"
    before, description = (path / "scene.json").read_bytes(), read_description(path)
    _run(trained, clips=0)
    assert (path / "scene.json").read_bytes() == before
    assert description["timings"] == {}


def test_a_stage_that_was_stopped_makes_only_what_is_missing(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    original = scenes.generate_scene

    def stopping(*args: object, name: str, **kwargs: object) -> object:
        if name == "clip-street" and made == ["coffee"]:
            made.append("stopped")
            raise KeyboardInterrupt
        made.append(name)
        return original(*args, name=name, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(scenes, "generate_scene", stopping)
    with pytest.raises(KeyboardInterrupt):
        _run(trained)
    assert not (trained / "results" / "scenes").exists()
    _run(trained)
    assert made == ["coffee", "stopped", "clip-street"]


def test_the_frame_shown_at_a_time_is_the_last_that_began(tmp_path: Path) -> None:
    video = np.repeat(np.arange(10, 250, 30), 1)[:, None, None, None]
    write_video(tmp_path / "v.mp4", np.tile(video, (1, 16, 16, 3)).astype(np.uint8), 8, lossless=True)
    assert frame_at(tmp_path / "v.mp4", 0.0)[0, 0, 0] == 10
    assert frame_at(tmp_path / "v.mp4", 0.25)[0, 0, 0] == 70
    assert frame_at(tmp_path / "v.mp4", 0.3)[0, 0, 0] == 70
    assert frame_at(tmp_path / "v.mp4", 99.0)[0, 0, 0] == 220


def test_unknown_photos_and_cameras_are_refused_with_the_known() -> None:
    with pytest.raises(ValidationError, match="unknown photos dog; the photos are flower"):
        ScenesParams(photos=("dog",), clips=0, render_scale=2)
    with pytest.raises(ValidationError, match="sideways.*the cameras are static"):
        ScenesParams(clips=0, render_scale=2, clip_cameras=("sideways",))
