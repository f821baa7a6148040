import base64
import io
from pathlib import Path

import av
import numpy as np
import pandas as pd
from more4d_orchestration.previews import as_markdown, contact_sheet, curve, find_pictures
from PIL import Image


def _video(path: Path, colours: list[tuple[int, int, int]]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv444p"
        for colour in colours:
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), colour, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_a_contact_sheet_shows_the_middle_frame_of_each_video_in_its_place(tmp_path: Path) -> None:
    red = _video(tmp_path / "a.mp4", [(0, 0, 0)] * 2 + [(250, 0, 0)] + [(0, 0, 0)] * 2)
    blue = _video(tmp_path / "b.mp4", [(0, 0, 250)])
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet([red, blue]))).convert("RGB"), np.int16)
    assert sheet.shape == (96, 256, 3)
    assert np.abs(sheet[30, 40] - (250, 0, 0)).max() < 12
    assert np.abs(sheet[30, 128 + 40] - (0, 0, 250)).max() < 12


def test_of_many_pictures_twelve_are_taken_from_the_whole_range(tmp_path: Path) -> None:
    files = [tmp_path / f"{i:03d}.png" for i in range(40)]
    for index, file in enumerate(files):
        Image.new("L", (40, 30), index * 6).save(file)
    sheet = Image.open(io.BytesIO(contact_sheet(files))).convert("L")
    assert sheet.size == (512, 288)
    assert abs(np.asarray(sheet)[10, 10] - 0.0) < 6 and np.asarray(sheet)[200, 400] > 30 * 6


def test_videos_are_preferred_to_images_and_other_files_are_not_pictures(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "b.png")
    (tmp_path / "c.txt").write_text("c")
    assert find_pictures(tmp_path) == [tmp_path / "b.png"]
    video = _video(tmp_path / "a.mp4", [(1, 2, 3)])
    assert find_pictures(tmp_path) == [video]
    assert find_pictures(tmp_path / "c.txt") == []


def test_a_curve_is_a_small_png_and_goes_into_markdown(tmp_path: Path) -> None:
    png = curve(pd.DataFrame({"step": range(500), "loss": np.linspace(1, 0, 500)}), "step", "loss")
    text = as_markdown(png, "loss over step")
    assert len(text) < 20_000
    encoded = text.partition("base64,")[2].rstrip(")")
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (360, 200)
