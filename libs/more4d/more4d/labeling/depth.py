"""Depth of every frame of a clip behind one interface: exact where it was rendered, a network's elsewhere.

Suffixes: T frames, H height, W width.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from more4d.data.hashing import hash_file
from more4d.labeling.clips import Clip
from more4d.labeling.external import DepthNetworkParams, ExternalDepths, MoGeParams, Site
from more4d.labeling.external_exchange import Exchange
from more4d.models.depth import DepthConfig, DepthNetwork

STILL_DIFFERENCE = 10.0
"""A pixel is still while its blurred colour stays within this many of 255 levels of the first frame's."""
WORKER_NAMES = {"unidepth_v2": "unidepth", "moge": "moge"}
"""What the worker calls the networks of ExternalDepths."""
DEPTH_ESTIMATORS = ("ground_truth", "network", *WORKER_NAMES)
_BLUR = 1.0
_ENOUGH = 0.02
"""Of the picture: fewer still pixels than this do not tell a frame's scale."""
_BATCH = 16


@dataclass(frozen=True, eq=False)
class DepthLabel:
    """depths float32 [T, H, W] in metres; intrinsics float32 [3, 3] in pixels, the same for all frames."""

    depths: NDArray[np.float32]
    intrinsics: NDArray[np.float32]


@dataclass(frozen=True)
class LabelerInfo:
    """Which model made a label, and under which licence its weights are."""

    model: str
    version: str
    licence: str


class DepthEstimator(Protocol):
    """Estimates depth and intrinsics of clips: `prepare` once for all of them, then `estimate` for each, in any process."""

    @property
    def info(self) -> LabelerInfo: ...

    def prepare(self, clips: Sequence[Clip]) -> None:
        """What is better done for many clips at once; it may be nothing."""
        ...

    def estimate(self, clip: Clip) -> DepthLabel:
        """The clip's label. Raises ValueError where the clip cannot have one."""
        ...


class GroundTruthDepth:
    """The rendered scene's own depth. Raises ValueError for a clip that was not rendered."""

    info = LabelerInfo("ground_truth", "1", "Apache-2.0")

    def prepare(self, clips: Sequence[Clip]) -> None:
        return

    def estimate(self, clip: Clip) -> DepthLabel:
        arrays, _ = clip.truth()
        return DepthLabel(arrays["depths"], arrays["intrinsics"])


class NetworkDepth:
    """The lineage's own depth network, frame by frame, made steady over time; its weights are read at the first clip."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self.info = LabelerInfo("more4d-depth", _short_hash(base), "Apache-2.0")

    def prepare(self, clips: Sequence[Clip]) -> None:
        return

    def estimate(self, clip: Clip) -> DepthLabel:
        frames = clip.frames()
        network = _network(self._base)
        rgb = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()
        # One camera for the clip: the first frame's.
        intrinsics = network.infer(rgb[:1], None).intrinsics
        batches = [network.infer(part, intrinsics.expand(len(part), 3, 3)).depth for part in rgb.split(_BATCH)]
        depths = torch.cat(batches).numpy().astype(np.float32)
        return DepthLabel(steady_depth(depths, frames), intrinsics[0].numpy().astype(np.float32))


class ExternalDepth:
    """UniDepthV2 or MoGe in an environment of its own: one run of its worker for all clips, its answers read one by one."""

    def __init__(self, name: str, params: DepthNetworkParams, site: Site) -> None:
        """Raises ValueError where the environment or the weights are not there."""
        self._name, self._params = name, params
        self._exchange = Exchange.of(WORKER_NAMES[name], params, site.root)
        self._licence = site.licences[name]
        site.spent.append(self._exchange.folder)

    @property
    def info(self) -> LabelerInfo:
        return LabelerInfo(self._name, self._exchange.version, self._licence)

    def prepare(self, clips: Sequence[Clip]) -> None:
        """Every clip answered or recorded as failed. Raises WorkerError where the worker cannot be run."""
        named = {clip.name_of_contents(): clip for clip in clips}
        self._exchange.ask(list(named), lambda name: {"frames": named[name].frames()})

    def estimate(self, clip: Clip) -> DepthLabel:
        frames = clip.frames()
        answer = self._exchange.answer(clip.name_of_contents(), {"depths": frames.shape[:3], "intrinsics": (3, 3)})
        depths, intrinsics = answer["depths"], answer["intrinsics"]
        if min(intrinsics[0, 0], intrinsics[1, 1]) <= 0 or list(intrinsics[2]) != [0, 0, 1]:
            raise ValueError(f"{self._name} answered what is no camera: {intrinsics.tolist()}")
        if self._params.steady:
            far_m = self._params.far_m if isinstance(self._params, MoGeParams) else None
            depths = steady_depth(depths, frames, far_m=far_m)
        return DepthLabel(depths, intrinsics)


def depth_estimator(
    name: str, base: Path, *, external: ExternalDepths | None = None, site: Site | None = None
) -> DepthEstimator:
    """The estimator called `name`; `base` is the checkpoint folder of the lineage's own network.

    External ones need their settings and a place to work. Raises ValueError listing the known, or saying what an
    external one lacks.
    """
    if name == "ground_truth":
        return GroundTruthDepth()
    if name == "network":
        return NetworkDepth(base)
    if name not in WORKER_NAMES:
        raise ValueError(f"unknown depth estimator {name!r}; the estimators are {', '.join(DEPTH_ESTIMATORS)}")
    params = getattr(external, name, None)
    if params is None or site is None:
        raise ValueError(f"{name} needs depth.external.{name} (python, weights) in params.yaml; see docs/labeling.md")
    return ExternalDepth(name, params, site)


def steady_depth(
    depths: NDArray[np.float32], frames: NDArray[np.uint8], *, far_m: float | None = None
) -> NDArray[np.float32]:
    """Depths [T, H, W] without breathing: each frame's scale follows the first's on pixels that do not change.

    Pixels that are still throughout then take their median over time. What is not positive and finite, or was filled
    with `far_m`, is no measurement: it counts nowhere and stays as it is.
    """
    measured = np.isfinite(depths) & (depths > 0)
    if far_m is not None:
        measured &= depths != np.float32(far_m)
    still = still_pixels(frames)
    steady = depths.copy()
    for frame in range(1, len(depths)):
        both = measured[0] & measured[frame]
        same = still[frame] & both if (still[frame] & both).mean() > _ENOUGH else both
        if same.any():
            steady[frame][measured[frame]] *= np.median(depths[0][same] / depths[frame][same])
    always = still.all(0) & measured.any(0)
    medians = np.nanmedian(np.where(measured, steady, np.nan)[:, always], axis=0)
    steady[:, always] = np.where(measured[:, always], medians, steady[:, always])
    return steady


def still_pixels(frames: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """[T, H, W], True where the colour of frames uint8 [T, H, W, 3] is still the first frame's."""
    soft = np.stack([cv2.GaussianBlur(frame.astype(np.float32), (0, 0), _BLUR) for frame in frames])
    return np.abs(soft - soft[:1]).max(-1) < STILL_DIFFERENCE


@lru_cache(maxsize=1)
def _network(base: Path) -> DepthNetwork:
    """The checkpoint's depth network alone: more4d.models.bundle would import every other network's libraries."""
    try:
        config = DepthConfig.model_validate(json.loads((base / "config.json").read_text())["depth"])
        network = DepthNetwork(config)
        stored = load_file(base / "depth.safetensors")
        network.load_state_dict({name: tensor.float() for name, tensor in stored.items()})
    except (FileNotFoundError, KeyError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"{base} holds no depth network that this code can load: {error}") from error
    return network.eval().requires_grad_(False)


def _short_hash(base: Path) -> str:
    file = base / "depth.safetensors"
    if not file.is_file():
        raise ValueError(f"no depth network at {file}; run `make tiny-base` or use ground_truth alone")
    return hash_file(file)[:12]
