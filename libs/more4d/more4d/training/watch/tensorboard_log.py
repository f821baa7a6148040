"""TensorBoard's event files, opened so that a resumed run goes on in them.

Shape letters: T frames, H height, W width.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import TensorBoardTracker
from numpy.typing import NDArray
from PIL import Image


def open_tensorboard(folder: Path, run_name: str, step: int, options: dict[str, Any]) -> TensorBoardTracker:
    """A tracker, not yet started, in whose logs steps after `step` count from now on: readers drop what was there of them."""
    return TensorBoardTracker(run_name, folder, **({"purge_step": step + 1} | options))


def add_animation(writer: Any, name: str, frames: NDArray[np.uint8], fps: float, step: int) -> None:
    """Show a video [T, H, W, 3] among the images, where TensorBoard plays it; torch's own way asks for moviepy."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined]

    height, width = frames.shape[1:3]
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=_gif(frames, fps))
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)
    writer.flush()


def _gif(frames: NDArray[np.uint8], fps: float) -> bytes:
    pictures, buffer = [Image.fromarray(frame) for frame in frames], io.BytesIO()
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=max(20, round(1000 / fps)), loop=0
    )
    return buffer.getvalue()
