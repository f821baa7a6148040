"""A clip as the labeling stages see it: its row, its frames and, where it was rendered, its truth."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from more4d.data.hashing import hash_file
from more4d.data.tensors import read_arrays
from more4d.data.video import read_video


@dataclass(frozen=True)
class Clip:
    """An accepted window of a video; frames and truth are read when they are asked for."""

    clip_id: str
    origin: str
    path: Path
    start_frame: int
    truth_path: Path | None

    @classmethod
    def of_row(cls, row: dict[str, Any], clips: Path, source: Path) -> "Clip":
        """The clip of a row of clips.parquet, with the folders of the stages clips and source."""
        truth = source / row["truth"] if row["truth"] else None
        return cls(row["clip_id"], row["origin"], clips / row["path"], int(row["start_frame"]), truth)

    def choose(self, *, rendered: str, real: str) -> str:
        """Whichever of the two labelers is for clips of this one's origin."""
        return rendered if self.origin == "rendered" else real

    def name_of_contents(self, *beside: NDArray[Any]) -> str:
        """The clip's id, and twelve digits that tell its video, and arrays beside it, from others."""
        digest = hashlib.sha256(hash_file(self.path).encode())
        for array in beside:
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return f"{self.clip_id}-{digest.hexdigest()[:12]}"

    def frames(self) -> NDArray[np.uint8]:
        """All frames, uint8 [T, H, W, 3] RGB."""
        return read_video(self.path)[0]

    def truth(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and facts of the rendered scene. Raises ValueError where there is no truth for these very frames."""
        if self.truth_path is None:
            raise ValueError(f"clip {self.clip_id} ({self.origin}) has no ground truth; use another estimator for it")
        arrays, facts = read_arrays(self.truth_path)
        if self.start_frame:
            raise ValueError(f"clip {self.clip_id} starts at frame {self.start_frame} of its scene, its truth at 0")
        return arrays, facts


def by_labeler(clips: Sequence[Clip], *, rendered: str, real: str) -> dict[str, list[Clip]]:
    """The clips of each of the two labelers, without one that has none; in the order of the labelers' names."""
    names = [clip.choose(rendered=rendered, real=real) for clip in clips]
    return {name: [clip for clip, own in zip(clips, names, strict=True) if own == name] for name in sorted(set(names))}
