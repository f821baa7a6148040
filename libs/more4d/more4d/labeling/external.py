"""Networks that label in environments of their own: how each is configured."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from more4d.settings import Section


class ExternalParams(Section):
    """How one network's program is run."""

    ours: ClassVar[frozenset[str]] = frozenset()
    """Settings of a network that are used on its answers: it is not told them."""

    python: str = Field(min_length=1)
    """Interpreter of its environment: a path (in the workspace, or absolute), or a command's name."""
    weights: str = Field(min_length=1)
    """A file or folder (in the workspace, or absolute); for UniDepthV2 and MoGe also `hf:` and a Hugging Face id."""
    device: str = Field(default="cuda", pattern=r"^(cpu|cuda(:\d+)?)$")
    start_seconds: float = Field(default=900, gt=0)
    """It may take this long until its weights are loaded, ..."""
    clip_seconds: float = Field(default=600, gt=0)
    """... and this long for a clip; then it is stopped, and the clip rejected."""
    clips_per_run: int = Field(default=100, ge=1)
    """Clips handed over at a time: their frames lie uncompressed on the disk until all are answered."""


class DepthNetworkParams(ExternalParams):
    """What the depth networks have in common."""

    ours = frozenset({"steady"})
    revision: str | None = Field(default=None, pattern="^[0-9a-f]{40}$")
    """Commit of a Hugging Face repository, whole: a branch would be other weights tomorrow."""
    resolution_level: int = Field(default=9, ge=0, le=9)
    """0 is the smallest picture that it was trained on, 9 the largest."""
    camera_frames: int = Field(default=5, ge=1)
    """The clip's camera is the median of what it guesses for so many frames; it is then told that camera."""
    steady: bool = True
    """Each frame's scale follows the first's where nothing moves (more4d.labeling.depth.steady_depth)."""


class UniDepthParams(DepthNetworkParams):
    """Settings of UniDepthV2: the common ones. Its precision is its own choice: half on a GPU."""


class MoGeParams(DepthNetworkParams):
    """Settings of MoGe-2."""

    dtype: Literal["float32", "float16"] = "float16"
    far_m: float = Field(default=500, gt=0)
    """Depth of what it masks out: the sky."""


class DeltaParams(ExternalParams):
    """Settings of DELTA; the defaults are the published ones."""

    ours = frozenset({"min_visibility"})
    dtype: Literal["float32", "bfloat16"] = "float32"
    upsample_factor: Literal[4, 8] = 4
    """8, with bfloat16, halves the memory: about 20 GB for 100 frames where 40 GB were needed."""
    resolution: tuple[int, int] = (384, 512)
    """Rows and columns of the grid that it tracks: frames are resized to it, whole."""
    window: int = Field(default=16, ge=2)
    iterations: int = Field(default=6, ge=1)
    min_visibility: float = Field(default=0.8, ge=0, lt=1)
    """A point is visible where the network is surer than this."""

    @field_validator("resolution")
    @classmethod
    def _divides(cls, value: tuple[int, int]) -> tuple[int, int]:
        if min(value) < 32 or value[0] % 32 or value[1] % 32:
            raise ValueError(f"resolution {value[0]}x{value[1]}: both sides must be multiples of 32")
        return value


class ExternalDepths(Section):
    """The depth networks that are set up, by the names that `rendered` and `real` call them by."""

    unidepth_v2: UniDepthParams | None = None
    moge: MoGeParams | None = None


class ExternalTrackers(Section):
    """The trackers that are set up, by the names that `rendered` and `real` call them by."""

    delta: DeltaParams | None = None


@dataclass(frozen=True)
class Site:
    """Where external labelers work."""

    root: Path
    """The workspace, which paths in params.yaml are taken from, and under which answers are kept."""
    licences: Mapping[str, str]
    """Of what each of them makes, by its name."""
    spent: list[Path] = field(default_factory=list)
    """Each adds the folder of its answers, which is of no use once their labels are in place."""
