"""DVCLive's folder: a table a number that `dvc plots` draws, and the latest of all in metrics.json.

Shape letters: H height, W width.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import DVCLiveTracker
from numpy.typing import NDArray
from PIL import Image

from more4d.data.atomic import atomic_write_bytes

METRICS = Path("plots") / "metrics"
IMAGES = Path("plots") / "images"


class FolderTracker(DVCLiveTracker):
    """accelerate's tracker that only writes files.

    DVCLive's `next_step`, which accelerate calls after every row, reads all tables again, sends them to DVC Studio and
    tells editors that it did: after weeks of steps each would take longer than the one before.
    """

    main_process_only = False
    live: Any

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """A row in each number's table, and the latest values."""
        if step is not None:
            self.live.step = step
        for name, value in values.items():
            self.live.log_metric(name, value, **kwargs)
        self.live.make_summary()

    def log_images(self, values: Mapping[str, NDArray[np.uint8]], step: int) -> None:
        """The first of the pictures [1, H, W, 3] of each name, one file a step: DVC draws such a folder with a slider."""
        for name, pictures in values.items():
            self.live.log_image(f"{name}/{step}.png", Image.fromarray(pictures[0]))


def open_dvclive(folder: Path, step: int, options: dict[str, Any]) -> FolderTracker:
    """A started tracker that writes to `folder`, in which nothing stands of steps after `step`."""
    latest = cut(folder, step)
    # It adds neither an experiment nor a dvc.yaml: the lineage's own says what is plotted.
    fixed = {"dir": str(folder), "resume": True, "save_dvc_exp": False, "dvcyaml": None, "report": None}
    tracker = FolderTracker(live=_files_only(**(fixed | options)))
    tracker.start()
    for name, value in latest.items():
        tracker.live.log_metric(name, value, plot=False)
    return tracker


def _files_only(**options: Any) -> Any:
    """DVCLive that asks no repository: it would make one of DVC in any Git repository, and fails in one without a commit."""
    from dvclive.live import Live

    class FilesOnly(Live):
        def _init_dvc(self) -> None:
            self._dvc_file = self._init_dvc_file()

    return FilesOnly(**options)


def cut(folder: Path, step: int) -> dict[str, float]:
    """The latest number of each table up to `step`, after removing all rows and pictures of later steps.

    A last row that was half written when the process was killed goes too, and metrics.json, which is made of the tables.
    """
    (folder / "metrics.json").unlink(missing_ok=True)
    latest: dict[str, float] = {}
    for table in sorted((folder / METRICS).rglob("*.tsv")):
        header, kept = _rows(table, step)
        if kept:
            atomic_write_bytes(table, "".join([header, *kept]).encode())
            latest[table.relative_to(folder / METRICS).with_suffix("").as_posix()] = float(kept[-1].split("\t")[-1])
        else:
            table.unlink()
    for picture in (folder / IMAGES).rglob("*.png"):
        if picture.stem.isdigit() and int(picture.stem) > step:
            picture.unlink()
    return latest


def _rows(table: Path, step: int) -> tuple[str, list[str]]:
    """The header, and the whole rows up to a step."""
    header, *lines = table.read_text().splitlines(keepends=True) or [""]
    columns = header.rstrip("\n").split("\t")
    rows = [line for line in lines if line.endswith("\n") and line.count("\t") == len(columns) - 1]
    return header, [row for row in rows if int(row.split("\t")[columns.index("step")]) <= step]
