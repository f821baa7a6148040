"""Logs of a training through accelerate's trackers: TensorBoard, DVCLive, and whatever else accelerate knows by name.

A tracker's library is imported when the tracker is asked for. DVCLive is used for its files alone: this library knows no
repository of DVC. A run that goes on writes to the logs of the stopped one; what these held of later steps is cut, so that no
step is there twice. For `dvc plots show`, name DVCLive's folder in dvc.yaml (X is the run's folder of logs):

    plots:
      - X/dvclive/plots/metrics:
          x: step

Shape letters: T frames, H height, W width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType
from numpy.typing import NDArray

from more4d.data.video import read_video
from more4d.training.watch.dvclive_log import open_dvclive
from more4d.training.watch.tensorboard_log import add_animation, open_tensorboard

Scalar = int | float | str | bool
_PACKAGES = {"comet_ml": "comet-ml"}
"""Where a tracker's package is not called as the tracker."""


class Trackers:
    """The named trackers of one run, logging under `folder`; on ranks above 0 none, whatever is called.

    `step` is how many steps were done when the run goes on, 0 where it starts: later rows are cut. `config` is stored with a
    new run, nested names joined by dots; `options` are what accelerate hands to a tracker, by its name (to go on with a run
    on a server, say {"wandb": {"id": "strag-1", "resume": "allow"}}). Raises ValueError for a tracker that is not known or
    not installed.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        config: Mapping[str, Any],
        run_name: str = "training",
        *,
        step: int = 0,
        rank: int = 0,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        require_trackers(names)
        self._trackers: dict[str, Any] = {}
        if rank:
            return
        # accelerate's trackers log through its state, and refuse to without one.
        PartialState()
        for name in dict.fromkeys(names):
            self._trackers[name] = _opened(name, folder, run_name, step, dict((options or {}).get(name, {})))
        if not step:
            self._store(flattened(config))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers after `step` steps, a "step" among them aside; names with a slash are grouped by what stands before it."""
        # Of what is no plain number accelerate's trackers drop some without a word.
        numbers = {name: float(value) for name, value in values.items() if name != "step"}
        for tracker in self._trackers.values():
            tracker.log(numbers, step=step)

    def images(self, pictures: Mapping[str, NDArray[np.uint8]], step: int) -> None:
        """Pictures [H, W, 3] by name, to trackers that take pictures."""
        for name, tracker in self._trackers.items():
            if hasattr(tracker, "log_images"):
                layout = {"dataformats": "NHWC"} if name == "tensorboard" else {}
                tracker.log_images({key: picture[None] for key, picture in pictures.items()}, step=step, **layout)

    def videos(self, files: Mapping[str, Path], step: int) -> None:
        """Videos by name: TensorBoard plays them, other trackers get their first, middle and last frame as a picture."""
        if not self._trackers:
            return
        clips = {name: read_video(file) for name, file in files.items()}
        for tracker_name, tracker in self._trackers.items():
            if tracker_name == "tensorboard":
                for name, (frames, fps) in clips.items():
                    add_animation(tracker.tracker, name, frames, fps, step)
            elif hasattr(tracker, "log_images"):
                strips = {name: _strip(frames)[None] for name, (frames, _) in clips.items()}
                tracker.log_images(strips, step=step)

    def close(self) -> None:
        """Everything is on the disk, or sent, when this returns."""
        for tracker in self._trackers.values():
            tracker.finish()
        self._trackers = {}

    def _store(self, config: dict[str, Scalar]) -> None:
        for name, tracker in self._trackers.items():
            if name == "tensorboard":
                # Not as hyperparameters: these would be a run of their own beside this one.
                rows = "\n".join(f"| {key} | {value} |" for key, value in config.items())
                tracker.tracker.add_text("config", f"| setting | value |\n|---|---|\n{rows}", 0)
            else:
                tracker.store_init_configuration(config)


def require_trackers(names: Sequence[str]) -> None:
    """Raises ValueError for a tracker that accelerate does not know, or whose package is not installed: what to do."""
    installed = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ValueError(f"unknown tracker {name!r}; there are {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
        # Trackers that were registered with accelerate need no package of accelerate's list.
        if name in LoggerType.list() and name not in installed:
            raise ValueError(
                f"tracker {name!r} is not installed; `pip install {_PACKAGES.get(name, name)}`, or take one of "
                f"{', '.join(sorted(installed))}"
            )


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """Nested settings as one level, names joined by dots; what is neither number, text nor truth as its text."""
    flat: dict[str, Scalar] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{name}.")
        else:
            flat[name] = value if isinstance(value, int | float | str | bool) else str(value)
    return flat


def progress_line(values: Mapping[str, float]) -> str:
    """What stands behind a progress bar: loss, learning rate, speed, waiting and MFU, of these what is known."""
    parts = {
        "loss": "loss {:.4g}",
        "learning_rate": "lr {:.2g}",
        "samples_per_second": "{:.3g} samples/s",
        "data_wait_share": "wait {:.1%}",
        "mfu": "MFU {:.1%}",
    }
    return ", ".join(text.format(values[name]) for name, text in parts.items() if name in values)


def _opened(name: str, folder: Path, run_name: str, step: int, options: dict[str, Any]) -> GeneralTracker:
    if name == "tensorboard":
        tracker = open_tensorboard(folder / name, run_name, step, options)
    elif name == "dvclive":
        return open_dvclive(folder / name, step, options)
    else:
        kind = LOGGER_TYPE_TO_CLASS[name]
        tracker = kind(run_name, folder, **options) if kind.requires_logging_directory else kind(run_name, **options)
    # This is rank 0, so that accelerate need not ask which rank it is.
    tracker.main_process_only = False
    tracker.start()
    return tracker


def _strip(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The first, middle and last frame [H, 3 W, 3] side by side."""
    return np.concatenate([frames[0], frames[len(frames) // 2], frames[-1]], axis=1)
