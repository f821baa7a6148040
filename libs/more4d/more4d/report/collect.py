"""Fills the page from a workspace: what is missing stays empty, what cannot be read is named on the page."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pandas as pd
import yaml

from more4d.data.tables import read_accepted
from more4d.inference.photos import photos
from more4d.inference.scene import DESCRIPTION, Scene, read_scene
from more4d.report.comparisons import collect_comparisons
from more4d.report.gallery import collect_funnel, collect_gallery
from more4d.report.measures import collect_base_tables, collect_tables
from more4d.report.model import Acknowledgement, Curve, PageData, Run, StageTime

LINEAGE = (
    "source", "clips", "captions", "selection", "depth", "tracks", "trajscene", "data_report", "motion_vae", "latents",
    "strag", "vism", "samples", "evaluation", "scenes",
)  # fmt: skip
_CURVES = {"motion_vae": "Motion VAE", "strag": "4D-STraG", "vism": "4D-ViSM"}
_DATA_REPORT = "data/index.html"
"""Of stage data_report, in the folder of results."""

T = TypeVar("T")


def collect(root: Path) -> PageData:
    """What the workspace `root` holds so far. Nothing in it is changed, and no missing part is an error."""
    problems: list[str] = []

    def part(read: Callable[[Path], tuple[T, ...]], path: Path = root) -> tuple[T, ...]:
        try:
            return read(path)
        except (ValueError, KeyError, OSError) as error:
            problems.append(f"{_subject(read)} could not be read: {' '.join(str(error).split())}")
            return ()

    return PageData(
        run=collect_run(root),
        scenes=tuple(scene for folder in scene_folders(root) for scene in part(collect_scene, folder)),
        tables=part(collect_tables) + part(collect_base_tables),
        comparisons=part(collect_comparisons),
        curves=part(collect_curves),
        gallery=part(collect_gallery),
        funnel=part(collect_funnel),
        times=part(collect_times),
        acknowledgements=part(collect_acknowledgements),
        data_report=_DATA_REPORT if (root / "results" / _DATA_REPORT).is_file() else "",
        problems=tuple(problems),
    )


def _subject(read: Callable[..., object]) -> str:
    return read.__name__.removeprefix("collect_").replace("_", " ")


def collect_run(root: Path) -> Run:
    """The preset and seed of params.yaml and the git revision; "unknown" for what cannot be told."""
    path = root / "params.yaml"
    values = yaml.safe_load(path.read_text()) if path.is_file() else {}
    return Run(str(values.get("preset", "unknown")), str(values.get("seed", "unknown")), _revision(root))


def _revision(root: Path) -> str:
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=, with changes", "--abbrev=10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def scene_folders(root: Path) -> list[Path]:
    """The scene folders under results/scenes, in the photos' order, others after them by name."""
    order = {photo.name: place for place, photo in enumerate(photos())}
    folders = [path.parent for path in (root / "results" / "scenes").glob(f"*/{DESCRIPTION}")]
    return sorted(folders, key=lambda folder: (order.get(folder.name, len(order)), folder.name))


def collect_scene(folder: Path) -> tuple[Scene, ...]:
    """The one scene of a folder."""
    return (read_scene(folder),)


def collect_curves(root: Path) -> tuple[Curve, ...]:
    """The histories results/plots/<network>.csv, a column `step` and a column a loss."""
    paths = {name: root / "results" / "plots" / f"{name}.csv" for name in _CURVES}
    return tuple(_curve(_CURVES[name], path) for name, path in paths.items() if path.is_file())


def _curve(title: str, path: Path) -> Curve:
    table = pd.read_csv(path)
    if "step" not in table or len(table) == 0:
        raise ValueError(f"{path} has {len(table)} rows and columns {', '.join(table)}; needs rows and `step`")
    series = {name: table[name].to_numpy(float) for name in table if name != "step"}
    return Curve(title, table["step"].to_numpy(float), series)


def collect_times(root: Path) -> tuple[StageTime, ...]:
    """The stages' last wall times, results/timings/<stage>.json, in the lineage's order."""
    paths = {stage: root / "results" / "timings" / f"{stage}.json" for stage in LINEAGE}
    return tuple(
        StageTime(stage, float(json.loads(path.read_text())["seconds"]))
        for stage, path in paths.items()
        if path.is_file()
    )


def collect_acknowledgements(root: Path) -> tuple[Acknowledgement, ...]:
    """Who made the photos of the scenes and the accepted clips of the source table, each once."""
    return tuple(dict.fromkeys((*_photo_credits(root), *_clip_credits(root))))


def _photo_credits(root: Path) -> list[Acknowledgement]:
    descriptions = sorted((root / "results" / "scenes").glob(f"*/{DESCRIPTION}"))
    credits = [json.loads(path.read_text())["credit"] for path in descriptions]
    return [Acknowledgement(c["source"], c["attribution"], c["licence"]) for c in credits if c["source"]]


def _clip_credits(root: Path) -> list[Acknowledgement]:
    table = root / "datasets" / "source" / "table.parquet"
    rows = read_accepted(table).to_dict("records") if table.is_file() else []
    return [
        Acknowledgement(
            "Rendered scenes" if row["origin"] != "real" else row["videoid"], row["attribution"], row["licence"]
        )
        for row in rows
    ]
