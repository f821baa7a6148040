"""Small PNG pictures for the Dagster UI: a contact sheet of videos and images, a curve of a table's columns.

Dagster has no picture metadata: a picture is base64 inside Markdown, and stays in the event log for ever. Keep it small.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import av
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".webm")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
THUMBNAIL = (128, 96)
COLUMNS, ROWS = 4, 3


def as_markdown(png: bytes, caption: str) -> str:
    """Markdown that shows a PNG."""
    return f"![{caption}](data:image/png;base64,{base64.b64encode(png).decode()})"


def find_pictures(path: Path) -> list[Path]:
    """Videos under a file or folder, or its images when it has no video; sorted."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    return videos or [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]


def contact_sheet(files: Sequence[Path]) -> bytes:
    """PNG of at most 4 x 3 thumbnails, evenly taken from `files`; a video shows its middle frame."""
    count = min(len(files), COLUMNS * ROWS)
    chosen = [files[i * len(files) // count] for i in range(count)]
    rows = -(-count // COLUMNS)
    sheet = Image.new("RGB", (THUMBNAIL[0] * min(count, COLUMNS), THUMBNAIL[1] * rows))
    for index, file in enumerate(chosen):
        picture = _middle_frame(file) if file.suffix.lower() in VIDEO_SUFFIXES else Image.open(file).convert("RGB")
        picture.thumbnail(THUMBNAIL)
        sheet.paste(picture, (index % COLUMNS * THUMBNAIL[0], index // COLUMNS * THUMBNAIL[1]))
    # 64 colours: a third of the bytes, and a thumbnail does not show the difference.
    return _png(sheet.quantize(64))


def _middle_frame(file: Path) -> Image.Image:
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        middle = (stream.frames or 1) // 2
        frame = next(frame for index, frame in enumerate(container.decode(stream)) if index >= middle)
        return frame.to_image()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def curve(table: pd.DataFrame, x: str, y: str) -> bytes:
    """PNG of the column `y` over the column `x`."""
    figure = Figure(figsize=(4.5, 2.5), dpi=80, layout="tight")
    axes = figure.add_subplot()
    axes.plot(table[x], table[y], linewidth=1)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return _png(Image.open(buffer).convert("RGB").quantize(32))
