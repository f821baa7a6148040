"""Archives in the published layout, made small, and whatever is wrong with them."""

import gzip
import io
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from more4d.data.import_trajscene import PublishedLayout
from more4d.data.sample import Sample
from more4d.data.video import encode_video

LAYOUT = PublishedLayout(frames=5, height=32, width=48, max_rejected_share=0.9)


def tracks(sample: Sample) -> dict[str, Any]:
    """The dict of tensors that a published pickle holds."""
    frames = len(sample.points)
    return {
        "coords": torch.from_numpy(sample.points.reshape(frames, -1, 3).copy())[None],
        "colors": torch.from_numpy(sample.video[0].reshape(-1, 3).astype(np.float32)),
        "vis": torch.from_numpy(sample.visibility.reshape(frames, -1).copy()),
    }


def members(sample: Sample, name: str, **changes: bytes | None) -> dict[str, bytes]:
    """A sample's six files by path; `changes` replaces one by its kind, None leaves it out."""
    mask = io.BytesIO()
    np.save(mask, ~sample.render_mask)
    video = encode_video(sample.video, sample.fps, lossless=True, preset="veryfast")
    render = np.where(sample.render_mask[..., None], np.maximum(sample.render, 40), 0).astype(np.uint8)
    files: dict[str, bytes | None] = {
        "video": video, "caption": b"a patch moves\n", "tracks": pickle.dumps(tracks(sample)),
        "render": encode_video(render, sample.fps, lossless=True, preset="veryfast"), "mask": mask.getvalue(),
        "mask_video": video,
    }  # fmt: skip
    endings = {
        "video": ".mp4", "caption": ".txt", "tracks": "_dt3d_pred.pkl", "render": "_dt3d_render.mp4",
        "mask": "_mask_render_binary.npy", "mask_video": "_mask_render.mp4",
    }  # fmt: skip
    made = {f"0-49/{name}{endings[kind]}": data for kind, data in {**files, **changes}.items()}
    return {path: data for path, data in made.items() if data is not None}


def write_archive(path: Path, files: Mapping[str, bytes], *extra: tuple[tarfile.TarInfo, bytes]) -> Path:
    """A `.tar.gz` of the files and of members made by hand."""
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info, data in extra:
            archive.addfile(info, io.BytesIO(data))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, target: str = "") -> tarfile.TarInfo:
    """A tar header."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, target
    return info


def gzipped(data: bytes) -> bytes:
    """One gzip member."""
    return gzip.compress(data, 9)
