"""The rendered scenes that the tiny base learns from: one memory-mapped array a field, written once, read by index.

Suffixes: N scenes, M extra views, T frames, H height, W width.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from more4d_kernels import normalize_motion

from more4d.scenes import RenderedScene
from more4d.settings import Section

TRAINING_SEEDS = 10**8
"""Training scenes have seeds below this; held-out ones start at HELD_OUT_SEEDS."""
HELD_OUT_SEEDS = 10**9
SEEDS_PER_RUN = 10**5


class BaseScenesSpec(Section):
    """What a folder of scenes holds: its counts and sizes."""

    scenes: int
    views: int
    frames: int
    height: int
    width: int


def training_seeds(run_seed: int, scenes: int) -> range:
    """The seeds of a run's training scenes, below TRAINING_SEEDS; runs with different seeds (modulo 1000) share none."""
    if scenes > SEEDS_PER_RUN:
        raise ValueError(f"scenes={scenes} is more than the {SEEDS_PER_RUN} seeds set aside for one run")
    first = run_seed % (TRAINING_SEEDS // SEEDS_PER_RUN) * SEEDS_PER_RUN
    return range(first, first + scenes)


def held_out_seeds(run_seed: int, scenes: int) -> range:
    """Seeds of scenes that no base was trained on, from HELD_OUT_SEEDS up."""
    first = HELD_OUT_SEEDS + run_seed % 10**4 * SEEDS_PER_RUN
    return range(first, first + scenes)


class BaseScenes:
    """A folder of rendered scenes; every array stays on disk until it is indexed.

    videos uint8 [N,T,H,W,3]; motion float16 [N,3,T,H,W], normalised by eq. 1; depths float32 [N,H,W], frame 0, metres;
    intrinsics float32 [N,3,3]; seeds int64 [N]; captions, kinds, directions: N words each. Of some scenes an extra view:
    view_scenes int64 [M] (numbers in 0..N-1), view_names, view_videos uint8 [M,T,H,W,3], view_cameras float32 [M,T,4,4].
    Raises ValueError where the folder is not complete.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "scenes.json").exists():
            raise ValueError(f"no scenes at {folder}: scenes.json is missing; run the stage base_scenes")
        self.spec = BaseScenesSpec.model_validate_json((folder / "scenes.json").read_text())
        texts = json.loads((folder / "captions.json").read_text())
        self.captions: list[str] = [row["caption"] for row in texts]
        self.kinds: list[str] = [row["kind"] for row in texts]
        self.directions: list[str] = [row["direction"] for row in texts]
        self.seeds = np.array([row["seed"] for row in texts], np.int64)
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _layout(self.spec)}
        self.videos, self.motion = arrays["videos"], arrays["motion"]
        self.depths, self.intrinsics = arrays["depths"], arrays["intrinsics"]
        self._visibility, self._moving = arrays["visibility"], arrays["moving"]
        self.view_scenes = np.array(arrays["view_scenes"])
        self.view_videos, self.view_cameras = arrays["view_videos"], arrays["view_cameras"]
        self.view_names: list[str] = json.loads((folder / "view_names.json").read_text())

    def __len__(self) -> int:
        return self.spec.scenes

    def visibility(self, index: int | np.ndarray | slice) -> np.ndarray:
        """Whether each first-frame pixel's point is seen at time t, bool [...,T,H,W], of the scenes at `index`."""
        return np.unpackbits(self._visibility[index], axis=-1, count=self.spec.width).astype(bool)

    def moving(self, index: int | np.ndarray | slice) -> np.ndarray:
        """The first frame's pixels of things that move, bool [...,H,W], of the scenes at `index`."""
        return np.unpackbits(self._moving[index], axis=-1, count=self.spec.width).astype(bool)


def write_base_scenes(scenes: Iterable[RenderedScene], folder: Path, spec: BaseScenesSpec) -> None:
    """Write exactly `spec.scenes` rendered scenes, with `spec.views` extra views among them, into the empty `folder`.

    Raises ValueError when the scenes or views are fewer or more than announced.
    """
    arrays = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
        for name, (dtype, shape) in _layout(spec).items()
    }
    texts: list[dict[str, str | int]] = []
    view_names: list[str] = []
    for scene in scenes:
        if len(texts) == spec.scenes:
            raise ValueError(f"more than the announced {spec.scenes} scenes")
        _write_scene(arrays, len(texts), scene)
        _write_views(arrays, len(texts), scene, view_names)
        texts.append({"seed": scene.seed, "caption": scene.caption, "kind": scene.kind, "direction": scene.direction})
    if (len(texts), len(view_names)) != (spec.scenes, spec.views):
        raise ValueError(f"{len(texts)} scenes, {len(view_names)} views: not the {spec.scenes}, {spec.views} announced")
    for array in arrays.values():
        array.flush()
    (folder / "captions.json").write_text(json.dumps(texts, indent=0) + "\n")
    (folder / "view_names.json").write_text(json.dumps(view_names) + "\n")
    (folder / "scenes.json").write_text(spec.model_dump_json(indent=1) + "\n")


def _layout(spec: BaseScenesSpec) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
    """Type and shape of every array; the masks are packed, eight columns a byte."""
    n, m, t, h, w = spec.scenes, spec.views, spec.frames, spec.height, spec.width
    packed = (w + 7) // 8
    return {
        "videos": (np.uint8, (n, t, h, w, 3)),
        "motion": (np.float16, (n, 3, t, h, w)),
        "depths": (np.float32, (n, h, w)),
        "intrinsics": (np.float32, (n, 3, 3)),
        "visibility": (np.uint8, (n, t, h, packed)),
        "moving": (np.uint8, (n, h, packed)),
        "view_scenes": (np.int64, (m,)),
        "view_videos": (np.uint8, (m, t, h, w, 3)),
        "view_cameras": (np.float32, (m, t, 4, 4)),
    }


def _write_scene(arrays: dict[str, np.memmap], i: int, scene: RenderedScene) -> None:
    points, intrinsics = torch.from_numpy(scene.points)[None], torch.from_numpy(scene.intrinsics)[None]
    motion, _ = normalize_motion(points, intrinsics, image_size=scene.depth.shape)
    arrays["videos"][i] = scene.video
    arrays["motion"][i] = motion[0].numpy()
    arrays["depths"][i] = scene.depth
    arrays["intrinsics"][i] = scene.intrinsics
    arrays["visibility"][i] = np.packbits(scene.visibility, axis=-1)
    arrays["moving"][i] = np.packbits(scene.moving_object, axis=-1)


def _write_views(arrays: dict[str, np.memmap], i: int, scene: RenderedScene, names: list[str]) -> None:
    for name, view in scene.views.items():
        if len(names) == len(arrays["view_scenes"]):
            raise ValueError(f"more than the announced {len(names)} views")
        arrays["view_scenes"][len(names)] = i
        arrays["view_videos"][len(names)] = view.video
        arrays["view_cameras"][len(names)] = view.camera_to_world
        names.append(name)
