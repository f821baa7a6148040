"""Labels the clips of an exchange folder with one network: `python labeler.py FOLDER`, in the network's own environment.

Needs numpy, torch and safetensors beside the network. What the folder holds: docs/labeling.md.
Suffixes: T frames, H height, W width, h and w the network's own grid.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import math
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file
from torch import Tensor

Arrays = dict[str, Any]


class Network(Protocol):
    """Makes a clip's label, arrays by name, out of its inputs."""

    package: str
    """Distribution whose version goes into every label."""

    def label(self, inputs: Arrays) -> Arrays: ...


class UniDepth:
    """UniDepthV2: metric depth frame by frame, under one camera for the clip."""

    package = "unidepth"

    def __init__(self, job: dict[str, Any]) -> None:
        self._settings = job["settings"]
        self._device = torch.device(job["device"])
        model = importlib.import_module("unidepth.models").UniDepthV2
        # Half precision is the network's own choice: its `infer` runs under autocast on a GPU.
        self._model = model.from_pretrained(job["weights"], **_revision(job)).to(self._device).eval()
        self._model.resolution_level = self._settings["resolution_level"]

    def label(self, inputs: Arrays) -> Arrays:
        rgb_T3HW = torch.from_numpy(inputs["frames"]).permute(0, 3, 1, 2).contiguous()
        probes = [self._infer(rgb_T3HW[t], None) for t in spread(len(rgb_T3HW), self._settings["camera_frames"])]
        camera = median_camera([probe["intrinsics"].reshape(3, 3) for probe in probes])
        depths = [self._infer(rgb, camera)["depth"].reshape(rgb.shape[-2:]) for rgb in rgb_T3HW]
        return {"depths": as_float32(torch.stack(depths)), "intrinsics": as_float32(camera)}

    def _infer(self, rgb_3HW: Tensor, camera: Tensor | None) -> dict[str, Tensor]:
        # One frame a call: batches of frames with a camera fail in the published package (its issues 110 and 115).
        # A copy of the camera each: the package scales it in place. It answers with the camera that it would have
        # guessed, whatever it was given.
        given = None if camera is None else camera.clone()[None].to(self._device)
        predicted = self._model.infer(rgb_3HW[None].to(self._device), given)
        return {name: predicted[name].float().cpu() for name in ("depth", "intrinsics")}


class MoGe:
    """MoGe-2: metric depth frame by frame, under one field of view for the clip; what it masks out lies at `far_m`."""

    package = "moge"

    def __init__(self, job: dict[str, Any]) -> None:
        self._settings = job["settings"]
        self._device = torch.device(job["device"])
        model = importlib.import_module("moge.model.v2").MoGeModel
        self._model = model.from_pretrained(job["weights"], **_revision(job)).to(self._device).eval()
        if not hasattr(self._model, "scale_head"):
            raise ValueError(f"{job['weights']} has no metric scale; use MoGe-2 weights, such as moge-2-vitl-normal")

    def label(self, inputs: Arrays) -> Arrays:
        rgb_T3HW = torch.from_numpy(inputs["frames"]).permute(0, 3, 1, 2).float() / 255
        height, width = rgb_T3HW.shape[-2:]
        probes = [self._infer(rgb_T3HW[t], None) for t in spread(len(rgb_T3HW), self._settings["camera_frames"])]
        share = median_camera([probe["intrinsics"].reshape(3, 3) for probe in probes])
        # Its intrinsics are shares of the picture's width and height, with pixel centres at +0.5 as ours.
        camera = share * torch.tensor([[width], [height], [1.0]])
        field_of_view = math.degrees(2 * math.atan(0.5 / float(share[0, 0])))
        depths = torch.stack([self._infer(rgb, field_of_view)["depth"].reshape(height, width) for rgb in rgb_T3HW])
        depths = torch.where(torch.isinf(depths), self._settings["far_m"], depths)
        return {"depths": as_float32(depths), "intrinsics": as_float32(camera)}

    def _infer(self, rgb_3HW: Tensor, field_of_view: float | None) -> dict[str, Tensor]:
        predicted = self._model.infer(
            rgb_3HW.to(self._device),
            resolution_level=self._settings["resolution_level"],
            fov_x=field_of_view,
            use_fp16=self._settings["dtype"] == "float16",
        )
        return {name: predicted[name].float().cpu() for name in ("depth", "intrinsics")}


class Delta:
    """DELTA: dense 3D tracks of the first frame's grid, from frames and their depths."""

    package = "densetrack3d"

    def __init__(self, job: dict[str, Any]) -> None:
        self._settings = job["settings"]
        self._device = torch.device(job["device"])
        model = importlib.import_module("densetrack3d.models.densetrack3d.densetrack3d").DenseTrack3D(
            stride=4,
            window_len=self._settings["window"],
            add_space_attn=True,
            num_virtual_tracks=64,
            model_resolution=tuple(self._settings["resolution"]),
            upsample_factor=self._settings["upsample_factor"],
        )
        load_weights(model, Path(job["weights"]))
        self._predictor = importlib.import_module("densetrack3d.models.predictor.dense_predictor").DensePredictor3D(
            model=model
        )
        self._predictor.n_iters = self._settings["iterations"]
        self._predictor = self._predictor.eval().to(self._device)
        self._seen: list[Tensor] = []
        # The predictor answers visibility as yes or no; the network underneath says how sure it is.
        model.register_forward_hook(lambda _module, _given, made: self._seen.append(made[1]["vis"]))

    def label(self, inputs: Arrays) -> Arrays:
        size = tuple(self._settings["resolution"])
        frames = torch.from_numpy(inputs["frames"]).permute(0, 3, 1, 2).float()
        depths = torch.from_numpy(inputs["depths"])[:, None]
        # Resized here, without corners aligned, so that the grid's pixels are shares of the clip's.
        video = F.interpolate(frames, size, mode="bilinear", antialias=True).clamp(0, 255)[None].to(self._device)
        videodepth = F.interpolate(depths, size, mode="nearest-exact")[None].to(self._device)
        self._seen.clear()
        half = self._settings["dtype"] == "bfloat16"
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=half):
            made = self._predictor(video, videodepth, grid_query_frame=0)
        shape = (len(frames), *size)
        return {
            # Its pixel centres are whole numbers, ours are at +0.5.
            "uv": as_float32(made["trajs_uv"].reshape(*shape, 2)) + np.float32(0.5),
            "depth": as_float32(made["trajs_depth"].reshape(shape)),
            "visibility": as_float32(self._seen[-1].reshape(shape)),
        }


NETWORKS: dict[str, Callable[[dict[str, Any]], Network]] = {"unidepth": UniDepth, "moge": MoGe, "delta": Delta}


def _revision(job: dict[str, Any]) -> dict[str, str]:
    """What from_pretrained is told about a Hugging Face repository's state."""
    revision = job["settings"]["revision"]
    return {} if revision is None else {"revision": revision}


def spread(frames: int, count: int) -> list[int]:
    """At most `count` of the frames, evenly spread, the first among them."""
    return sorted({round(i * (frames - 1) / max(count - 1, 1)) for i in range(min(count, frames))})


def median_camera(cameras: list[Tensor]) -> Tensor:
    """[3, 3], each entry the median over cameras [3, 3]: one odd frame does not change it."""
    return torch.stack(cameras).float().median(0).values


def as_float32(tensor: Tensor) -> np.ndarray:
    """The tensor on the CPU, as NumPy has it."""
    return tensor.detach().float().cpu().contiguous().numpy()


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Tensors of a checkpoint into the model. Raises ValueError where a parameter would keep its random value."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    missing, unexpected = model.load_state_dict(stored.get("model", stored), strict=False)
    # Published checkpoints may lack tables that the network computes itself, never parameters.
    if lacking := sorted(set(missing) & {name for name, _ in model.named_parameters()}):
        raise ValueError(f"{path} lacks {len(lacking)} parameters of the network, first {lacking[0]}")
    if unexpected:
        warnings.warn(f"{path}: {len(unexpected)} tensors are not the network's, first {unexpected[0]}", stacklevel=1)


def main() -> None:
    """Label every clip of the folder's jobs.json that has neither answer nor error; a clip that fails gets an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--end-with-stdin", action="store_true", help="end when standard input is closed")
    given = parser.parse_args()
    if given.end_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    job = json.loads((given.folder / "jobs.json").read_text())
    network = NETWORKS[job["network"]](job)
    write_text(given.folder / "ready.json", json.dumps(_versions(network)))
    for clip in job["clips"]:
        answer, error = (given.folder / kind / f"{clip}.{end}" for kind, end in ENDS)
        if answer.exists() or error.exists():
            continue
        write_text(given.folder / "current", clip)
        try:
            save_file_whole(answer, network.label(load_file(given.folder / "inputs" / f"{clip}.safetensors")))
        except Exception as failure:  # one clip's failure must not be the others'; it is on record
            traceback.print_exc()
            write_text(error, f"{type(failure).__name__}: {failure}"[:LONGEST_ERROR])
            if torch.cuda.is_initialized():
                # Frees what a failed clip held; where the GPU itself is lost this raises, and a new process is made.
                torch.cuda.empty_cache()
                torch.cuda.synchronize()


LONGEST_ERROR = 500
ENDS = (("answers", "safetensors"), ("errors", "txt"))


def save_file_whole(path: Path, arrays: Arrays) -> None:
    """Safetensors at `path`, wholly or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)
    _settle(temporary, path)


def write_text(path: Path, text: str) -> None:
    """A text file at `path`, wholly or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text)
    _settle(temporary, path)


def _settle(temporary: Path, path: Path) -> None:
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def _versions(network: Network) -> dict[str, str]:
    """The network's code: the source that setup.sh wrote down, else the installed package's version; and torch's."""
    source = Path(sys.prefix) / "labeler-source.txt"
    if source.is_file():
        version = source.read_text().strip()
    else:
        try:
            version = importlib.metadata.version(network.package)
        except importlib.metadata.PackageNotFoundError:
            version = "unknown"
    return {network.package: version, "torch": torch.__version__}


def _end_with_stdin() -> None:
    """No worker outlives the program that asked: its end closes our standard input, even where it was killed."""
    # The descriptor itself: a thread that waits in sys.stdin holds its lock, over which the interpreter's end aborts.
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main()
