"""A workspace through which the data half of the lineage has been run once, at a size of seconds."""

import shutil
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from more4d.data.video import write_video
from more4d.models.architectures import TINY
from more4d.models.bundle import save_network
from more4d.models.depth import DepthNetwork
from more4d.stages.base import StageResult, VideoSpec, run_stage
from more4d.stages.registry import get_stage
from more4d.weights.registry import REGISTRY
from numpy.typing import NDArray

VIDEO = VideoSpec(frames=5, height=32, width=48, fps=8)
STAGES = ("source", "clips", "captions", "selection", "depth", "tracks", "trajscene")
FILTERS = {
    "min_motion": 0.01, "max_camera_motion": 0.03, "min_brightness": 0.08, "max_brightness": 0.95, "min_contrast": 0.02,
}  # fmt: skip
QUALITY = {
    "min_depth_m": 0.01, "max_depth_m": 10000, "max_depth_jump": 2, "max_anomalous_share": 0.2, "max_depth_deviation": 2,
    "scale": 1.25, "max_scale_change": 5, "max_flow_error": 2, "max_unexplained_change": 1,
}  # fmt: skip
PARAMS: dict[str, dict[str, Any]] = {
    "source": {
        "rendered_train": 2, "rendered_val": 1, "novel_views": ["circle_left"], "fox_share": 0, "crf": 0,
        "tables": [{"path": "mine/table.csv", "columns": {"page_dir": None, "licence": "rights"}}],
        "max_rejected_share": 0.7,
    },
    "clips": {
        "cut_threshold": 0.35, "max_windows_per_clip": 3, "min_source_fps": 6, "filters": FILTERS, "crf": 0,
        "max_rejected_share": 0.7,
    },
    "captions": {"captioner": "table", "min_words": 3, "max_characters": 200, "max_rejected_share": 0.5},
    "selection": {"judge": "rules", "max_rejected_share": 0.5},
    "depth": {"rendered": "ground_truth", "real": "network", "max_rejected_share": 0},
    "tracks": {
        "rendered": "ground_truth", "real": "flow", "min_visible_share": 0.1, "max_rejected_share": 0,
        "flow": {
            "max_inconsistency": 1, "max_inconsistency_share": 0.2, "max_colour_change": 60, "still_pixels": 0.8
        },
    },
    "trajscene": {
        "views": ["circle_left", "spiral"], "quality": QUALITY, "shard_bytes": 150_000,
        "max_rejected_share": 0.5,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Lineage:
    """The workspace, what each stage returned, and a way to run one again with other parameters."""

    root: Path
    results: dict[str, StageResult]
    run: Callable[..., StageResult]


@pytest.fixture(scope="session")
def lineage(tmp_path_factory: pytest.TempPathFactory) -> Lineage:
    """The lineage from source to trajscene over three rendered scenes and a handful of good and bad real files."""
    root = tmp_path_factory.mktemp("workspace")
    _write_packaged(root)
    _write_table(root / "mine")
    _write_base(root / "models" / "tiny-base")
    shutil.copy(Path(__file__).parents[3] / REGISTRY, root / REGISTRY)
    return Lineage(root, {name: _run(root, name) for name in STAGES}, lambda name, **kw: _run(root, name, **kw))


@pytest.fixture
def branch(lineage: Lineage, tmp_path: Path) -> Lineage:
    """A copy of the workspace, to break."""
    root = tmp_path / "branch"
    shutil.copytree(lineage.root, root)
    return Lineage(root, lineage.results, lambda name, **kw: _run(root, name, **kw))


def _run(root: Path, name: str, **changes: Any) -> StageResult:  # noqa: ANN401 - parameters of any stage
    stage = get_stage(name)
    params = stage.section.model_validate(PARAMS[name] | changes)
    return run_stage(stage, params=params, video=VIDEO, seed=3, workers=1, root=root)


def _write_packaged(root: Path) -> None:
    clips = root / ".cache" / "packaged" / "clips"
    clips.mkdir(parents=True)
    write_video(clips / "walk.mp4", _moving("subject", 12), 8, crf=8)
    entry = 'member = "m"\nkind = "clip"\nbytes = 1\nlicence = "MIT"\nattribution = "someone"\n'
    entry += f'sha256 = "{"0" * 64}"\ncaption = "A dog runs to the right"\n'
    files = "".join(f'[[wheel.file]]\n{entry}path = "clips/{name}.mp4"\n' for name in ("walk", "gone"))
    (root / "datasets").mkdir()
    (root / "datasets" / "packaged.toml").write_text(
        f'[[wheel]]\npackage = "p"\nversion = "1"\nsha256 = "{"0" * 64}"\n{files}'
    )


def _write_table(folder: Path) -> None:
    folder.mkdir()
    for kind in ("pan", "still", "cut", "sea"):
        write_video(folder / f"{kind}.mp4", _moving(kind, 10), 8, crf=8)
    (folder / "broken.mp4").write_bytes((folder / "pan.mp4").read_bytes()[:500])
    shutil.copy(folder.parent / ".cache" / "packaged" / "clips" / "walk.mp4", folder / "again.mp4")
    with wave.open(str(folder / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    names = ["pan.mp4", "still.mp4", "cut.mp4", "sea.mp4", "broken.mp4", "again.mp4", "sound.wav", "https://x.y/z.mp4"]
    rows = [f"{name.split('.')[0]},{name},1.25,A dog runs,CC0" for name in names]
    rows[3] = "sea,sea.mp4,1.25,Waves ripple over the sea,CC0"
    rows[7] = "far,https://x.y/z.mp4,1.25,A dog runs,CC0"
    (folder / "table.csv").write_text("\n".join(["videoid,contentUrl,duration,name,rights", *rows]) + "\n")


def _write_base(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(TINY.model_dump_json())
    save_network(DepthNetwork(TINY.depth), folder / "depth.safetensors")


def _moving(kind: str, frames: int) -> NDArray[np.uint8]:
    """Frames uint8 [T, 32, 48, 3]: the camera pans, nothing moves, a patch moves ("subject", "sea"), or also a cut."""
    wide = _texture(0, 120)
    if kind == "pan":
        return np.stack([wide[:, 3 * t : 3 * t + 48] for t in range(frames)])
    video = np.repeat(wide[None, :, :48], frames, 0).copy()
    if kind == "cut":
        video[3:] = _texture(5, 48)
    if kind != "still":
        for t in range(frames):
            # Another picture for each kind: the same bytes would be a duplicate.
            video[t, 10:22, 6 + 2 * t : 18 + 2 * t] = _texture(len(kind), 48)[10:22, :12]
    return video


def _texture(seed: int, width: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (32, width, 3)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 2)
    tint = np.random.default_rng(seed + 99).uniform(0.3, 1, 3)
    return (255 * tint * (soft - soft.min()) / (soft.max() - soft.min())).astype(np.uint8)
