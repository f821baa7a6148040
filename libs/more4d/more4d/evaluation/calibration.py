"""What each quality criterion catches: sound rendered scenes, and the same broken on purpose, judged and counted.

`python -m more4d.evaluation.calibration --scenes 100 --seed 0` prints the tables of docs/quality-control.md.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml
from pydantic import ValidationError

from more4d.labeling.broken import BREAKS, Labeled, break_sample
from more4d.labeling.depth import DepthLabel
from more4d.labeling.flow_tracker import FlowTrackerParams
from more4d.labeling.quality import QualityThresholds, judge_tracks
from more4d.labeling.tracks import TrackLabel, track_by_flow
from more4d.parallel import ordered_map
from more4d.presets import PRESETS
from more4d.scenes import RenderedScene, SceneConfig, render_scene, sample_scene

SOUND, FLOW = "sound", "sound, tracked by flow"
CRITERIA = ("anomalous_share", "depth_deviation", "scale_change", "flow_error", "unexplained_change")
FIRST_SEED = 15 * 10**7
"""Apart from the scenes of the lineage and of the tiny base."""
SEEDS_PER_RUN = 10**4


@dataclass(frozen=True)
class Limits:
    """What refuses a sample: the thresholds of a params file."""

    quality: QualityThresholds
    flow: FlowTrackerParams

    @classmethod
    def of_params(cls, params: Mapping[str, Any]) -> "Limits":
        """Those of sections trajscene and tracks. Raises ValueError saying what is missing or wrong."""
        try:
            quality = QualityThresholds.model_validate(params["trajscene"]["quality"])
            flow = FlowTrackerParams.model_validate(params["tracks"]["flow"])
            return cls(quality, flow)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the parameters need trajscene.quality and tracks.flow: {error}") from error


@dataclass(frozen=True)
class Size:
    """Of the clips."""

    frames: int
    height: int
    width: int
    fps: float = 8.0


@dataclass(frozen=True)
class Measured:
    """One sample's value for each criterion, and which of them refuse it."""

    kind: str
    values: dict[str, float]
    caught: frozenset[str]


def calibrate(scenes: int, seed: int, size: Size, limits: Limits, *, workers: int) -> list[dict[str, Any]]:
    """A row for sound scenes, for those tracked by flow, and for each way of breaking, from `scenes` fresh scenes.

    Each row: kind, the criterion made for it (none for sound ones), samples, the share that each criterion and any of
    them caught, each value's 5th, 50th and 95th percentile, and every sample's own. The same for any number of workers.
    Raises ValueError for fewer than 1 or more than 10,000 scenes.
    """
    if not 1 <= scenes <= SEEDS_PER_RUN:
        raise ValueError(f"scenes={scenes}; from 1 to {SEEDS_PER_RUN} of a seed's scenes can be rendered")
    seeds = range(FIRST_SEED + seed * SEEDS_PER_RUN, FIRST_SEED + seed * SEEDS_PER_RUN + scenes)
    found: dict[str, list[Measured]] = defaultdict(list)
    for measured in ordered_map(partial(_measure_scene, size, limits), seeds, workers=workers, label="scenes"):
        for one in measured:
            found[one.kind].append(one)
    return [_row(kind, samples) for kind, samples in found.items()]


def as_markdown(rows: list[dict[str, Any]], limits: Limits) -> str:
    """Two tables: shares caught, the criterion made for a kind in bold; and each value's distribution and limit."""
    titles = [name.replace("_", " ") for name in CRITERIA]
    lines = [f"| what was done | samples | {' | '.join(titles)} | any |", "|---" * (len(CRITERIA) + 3) + "|"]
    for row in rows:
        cells = [_share(row["caught"][name], bold=name == row["criterion"]) for name in (*CRITERIA, "any")]
        lines.append(f"| {row['kind']} | {row['samples']} | {' | '.join(cells)} |")
    head = "| criterion | limit | sound, 5 / 50 / 95 % | tracked by flow | broken for it |"
    return "\n".join([*lines, "", head, "|---" * 5 + "|", *(_margin(rows, name, limits) for name in CRITERIA)])


def _margin(rows: list[dict[str, Any]], name: str, limits: Limits) -> str:
    """A line of the second table."""
    by_kind = {row["kind"]: _spread(row, name) for row in rows}
    broken = [f"{row['kind']}: {_spread(row, name)}" for row in rows if row["criterion"] == name]
    limit = f"≤ {getattr(limits.quality, 'max_' + name):g}"
    return f"| {name.replace('_', ' ')} | {limit} | {by_kind[SOUND]} | {by_kind[FLOW]} | {'; '.join(broken)} |"


def _spread(row: dict[str, Any], name: str) -> str:
    return " / ".join(f"{value:.3g}" for value in row["values"][name])


def _share(value: float, *, bold: bool = False) -> str:
    text = f"{value:.0%}" if value in (0, 1) else f"{value:.1%}"
    return f"**{text}**" if bold else text


def _measure_scene(size: Size, limits: Limits, seed: int) -> list[Measured]:
    """A scene as it is, tracked by flow, and broken in every way."""
    scene, other = (_render(one, size) for one in (seed, seed + SEEDS_PER_RUN // 2))
    sound, another = _labeled(scene), _labeled(other)
    kinds = {SOUND: sound, FLOW: _by_flow(scene, limits.flow)}
    kinds |= {name: break_sample(name, sound, another, seed=seed) for name in BREAKS}
    return [_measure(kind, labeled, limits) for kind, labeled in kinds.items()]


def _measure(kind: str, labeled: Labeled, limits: Limits) -> Measured:
    """As the stage trajscene judges a sample."""
    quality = judge_tracks(labeled.tracks, labeled.video, limits.quality)
    values = {name: float(getattr(quality, name)) for name in CRITERIA}
    caught = {name for name in CRITERIA if not values[name] <= getattr(limits.quality, f"max_{name}")}
    return Measured(kind, values, frozenset(caught))


def _row(kind: str, samples: list[Measured]) -> dict[str, Any]:
    caught = {name: float(np.mean([name in one.caught for one in samples])) for name in CRITERIA}
    caught["any"] = float(np.mean([bool(one.caught) for one in samples]))
    values = {name: np.percentile([one.values[name] for one in samples], [5, 50, 95]).tolist() for name in CRITERIA}
    criterion = BREAKS[kind].criterion if kind in BREAKS else None
    return {"kind": kind, "criterion": criterion, "samples": len(samples), "caught": caught, "values": values,
            "measured": [one.values for one in samples]}  # fmt: skip


def _render(seed: int, size: Size) -> RenderedScene:
    config = SceneConfig(fps=size.fps, seconds=(size.frames - 1) / size.fps)
    return render_scene(sample_scene(seed, config), frames=size.frames, height=size.height, width=size.width)


def _labeled(scene: RenderedScene) -> Labeled:
    return Labeled(scene.video, TrackLabel(scene.points, scene.visibility, scene.depth, scene.intrinsics))


def _by_flow(scene: RenderedScene, params: FlowTrackerParams) -> Labeled:
    """The scene with tracks as real clips get them, over its true depth."""
    depth = DepthLabel(scene.depths, scene.intrinsics)
    return Labeled(scene.video, track_by_flow(scene.video, depth, params))


def read_params(preset: str, file: Path | None) -> Mapping[str, Any]:
    """A params file, or a preset where none is given. Raises ValueError naming what cannot be read."""
    if file is None:
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}; the presets are {', '.join(PRESETS)}")
        return PRESETS[preset]
    try:
        return yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{file} cannot be read as YAML: {error}") from error


def main(
    scenes: Annotated[int, typer.Option(min=1, help="how many scenes")],
    seed: Annotated[int, typer.Option(min=0, help="of the scenes and of what breaks them")],
    height: Annotated[int, typer.Option(min=16)] = 64,
    width: Annotated[int, typer.Option(min=16)] = 96,
    frames: Annotated[int, typer.Option(min=4)] = 13,
    workers: Annotated[int, typer.Option(min=1)] = 1,
    preset: Annotated[str, typer.Option(help="whose thresholds")] = "tiny",
    params: Annotated[Path | None, typer.Option(help="a params.yaml instead of a preset")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the rows there, too")] = None,
) -> None:
    """Break sound samples on purpose and print what each quality criterion catches."""
    try:
        limits = Limits.of_params(read_params(preset, params))
        rows = calibrate(scenes, seed, Size(frames, height, width), limits, workers=workers)
    except (ValueError, ValidationError) as error:
        raise typer.BadParameter(str(error)) from error
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=1))
    typer.echo(as_markdown(rows, limits))


if __name__ == "__main__":
    typer.run(main)
