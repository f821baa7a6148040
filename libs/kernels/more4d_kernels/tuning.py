"""The fastest setting of a launch, measured once for each device and shape and kept in a file.

The file is settings.json in $MORE4D_KERNELS_CACHE (~/.cache/more4d_kernels without). MORE4D_KERNELS_TUNE=0 measures
nothing and takes the first candidate, unless the file knows better. Settings differ in rounding only; who wants the
same bytes on two machines of a kind keeps the same file on both.
"""

import json
import math
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from more4d_kernels.launch import Launch, Setting

Settings = dict[str, dict[str, dict[str, int]]]
"""Device, then shape, to the fields of a `Setting`."""


def tuned(
    shape: str,
    device: torch.device,
    candidates: Sequence[Setting],
    launch: Callable[[Setting], Launch],
    measure: Callable[[Launch], float] | None = None,
) -> Setting:
    """The candidate whose launch takes the fewest seconds on `device`; `shape` names all that this may depend on.

    The first one without a GPU to measure on, and while a CUDA graph is being captured. `measure` is for tests.
    """
    if measure is None and (device.type != "cuda" or len(candidates) == 1):
        return candidates[0]
    # Asked in every call: nothing that takes time comes before.
    if (known := _remembered.get((device, shape))) is not None:
        return known
    name = device_name(device)
    measure_on = partial(seconds_on_gpu, device=device)
    stored = _read().get(name, {}).get(shape)
    setting = None if stored is None else Setting(**stored)
    # Another release of the kernels may have had other candidates.
    if setting is None or setting not in candidates:
        if not _may_measure(device):
            return candidates[0]
        setting = min(candidates, key=lambda candidate: _seconds(launch(candidate), measure or measure_on))
        _store(name, shape, setting)
    _remembered[device, shape] = setting
    return setting


_remembered: dict[tuple[torch.device, str], Setting] = {}


def device_name(device: torch.device) -> str:
    """What a setting is good for: the device and the version of the compiler."""
    import triton

    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{hardware}, triton {triton.__version__}"


def seconds_on_gpu(launch: Launch, device: torch.device) -> float:
    """Median time of one run."""
    launch.run()
    return statistics.median(time_on_gpu(launch.run, device) for _ in range(7))


def time_on_gpu(call: Callable[[], object], device: torch.device) -> float:
    """Seconds that the GPU takes for one call, with other data in its cache."""
    with torch.cuda.device(device):
        other = torch.empty(2**28, dtype=torch.int8, device=device)
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # Long enough for the call to be queued before the GPU is done: else Python's time would be measured.
        for _ in range(16):
            other.zero_()
        before.record()
        call()
        after.record()
        after.synchronize()
        return before.elapsed_time(after) / 1e3


def _seconds(launch: Launch, measure: Callable[[Launch], float]) -> float:
    from triton.runtime.errors import OutOfResources

    try:
        return measure(launch)
    except OutOfResources:
        return math.inf


def _may_measure(device: torch.device) -> bool:
    if os.environ.get("MORE4D_KERNELS_TUNE", "1") == "0":
        return False
    if device.type != "cuda":
        return True
    with torch.cuda.device(device):
        return not torch.cuda.is_current_stream_capturing()


def _path() -> Path:
    folder = os.environ.get("MORE4D_KERNELS_CACHE")
    return (Path(folder) if folder else Path.home() / ".cache" / "more4d_kernels") / "settings.json"


def _read() -> Settings:
    """What the file holds; nothing where it is missing or damaged, which costs measuring again."""
    try:
        found = json.loads(_path().read_text())
        for shapes in found.values():
            for setting in shapes.values():
                Setting(**setting)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        warnings.warn(f"{_path()} cannot be read ({error}): settings are measured again", stacklevel=2)
        return {}
    return found


def _store(device: str, shape: str, setting: Setting) -> None:
    """Add one setting; readers see the old file or the new one. A folder that cannot be written costs only time."""
    settings = _read()
    settings.setdefault(device, {})[shape] = asdict(setting)
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".json", delete=False) as file:
            file.write(json.dumps(settings, indent=1, sort_keys=True) + "\n")
        Path(file.name).replace(path)
    except OSError as error:
        warnings.warn(f"{path} cannot be written ({error}): settings are measured by every process", stacklevel=2)
