"""Evaluation figures as tables with a sentence on how to read each.

The figures are those of `more4d.evaluation.summary`: flat names, an interval as `<name>_low` and `<name>_high`.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from more4d.report.model import Estimate, MeasureRow, MeasureTable

Figures = Mapping[str, Any]

_METHODS = (
    ("model", "4D-STraG", "the trained network: one frame, its depth and the caption in, trajectories out"),
    ("nothing_moves", "nothing moves", "every point stays where the first frame shows it"),
    ("mean_motion", "mean motion", "the average motion of the training samples, the same for every clip"),
    ("caption_lookup", "caption look-up", "the average motion of the training samples with the same words"),
    ("vae", "ground truth through the VAE", "encoded and decoded: the best that the latent space allows"),
)


def collect_tables(root: Path) -> tuple[MeasureTable, ...]:
    """The tables of results/evaluation/evaluation.json; none where the stage has not run."""
    path = root / "results" / "evaluation" / "evaluation.json"
    return evaluation_tables(_flat(json.loads(path.read_text()))) if path.is_file() else ()


def collect_base_tables(root: Path) -> tuple[MeasureTable, ...]:
    """How the committed tiny base did on fresh scenes, from its metrics.json; none where it is missing."""
    path = root / "models" / "tiny-base" / "metrics.json"
    return base_tables(json.loads(path.read_text())) if path.is_file() else ()


def evaluation_tables(figures: Figures) -> tuple[MeasureTable, ...]:
    """Trajectories, novel views and depth, each where its figures are there."""
    tables = (_trajectories(figures, "Trajectory error"), _metres(figures), _views(figures), _depth(figures))
    return tuple(table for table in tables if table is not None)


def base_tables(metrics: Figures) -> tuple[MeasureTable, ...]:
    """The trajectory table of the figures that `more4d.evaluation.tiny` prints."""
    figures: dict[str, Any] = {"scenes": metrics["scenes"]}
    for region in ("moving", "all"):
        low, high = metrics[f"{region}_ratio_interval"]
        name = f"model_{region}_ratio"
        figures |= {name: metrics[f"{region}_ratio"], f"{name}_low": low, f"{name}_high": high}
        figures |= {f"{method}_{region}_ratio": row[region] for method, row in metrics["baselines"].items()}
    table = _trajectories(figures, "Trajectory error of the committed tiny base")
    return () if table is None else (table,)


def _trajectories(figures: Figures, title: str) -> MeasureTable | None:
    known = dict(figures) | {f"nothing_moves_{region}_ratio": 1.0 for region in ("moving", "all")}
    rows = tuple(
        MeasureRow(
            label, (_estimate(known, f"{method}_moving_ratio"), _estimate(known, f"{method}_all_ratio")),
            note, ours=method == "model",
        )
        for method, label, note in _METHODS
        if f"{method}_moving_ratio" in known
    )  # fmt: skip
    if "model_moving_ratio" not in known:
        return None
    return MeasureTable(
        title=f"{title}, {known['scenes']} held-out scenes" if "scenes" in known else title,
        reading=(
            "Mean 3D distance between predicted and true trajectories (eq. 7) over visible pixels, divided by the "
            "error of predicting that nothing moves: 0 is perfect, 1 is no better than a still picture. A pixel "
            "counts as moving when it truly travels more than 1 % of its depth. Lower is better; brackets are 95 % "
            "bootstrap intervals over scenes."
        ),
        columns=("moving pixels", "all pixels"),
        rows=rows,
        reference=1.0,
        chart_column=0,
    )


def _metres(figures: Figures) -> MeasureTable | None:
    methods = (
        ("model", "4D-STraG", "from the true first-frame depth"),
        ("estimated_depth", "4D-STraG on estimated depth", "what a photo gets: depth and motion errors together"),
        ("static", "nothing moves", "from the true first-frame depth"),
    )
    rows = tuple(
        MeasureRow(
            label,
            tuple(_estimate(figures, f"{method}_{region}_error_m") for region in ("moving", "all")),
            note,
            ours=method == "model",
        )
        for method, label, note in methods
        if f"{method}_moving_error_m" in figures
    )
    if not rows:
        return None
    return MeasureTable(
        title="Trajectory error in metres",
        reading="The same mean 3D distances, not divided by anything. Lower is better.",
        columns=("moving pixels", "all pixels"),
        rows=rows,
    )


def _views(figures: Figures) -> MeasureTable | None:
    if "hole_psnr" not in figures:
        return None
    rows = (
        ("4D-ViSM", "", "the trained network completes the render"),
        ("OpenCV inpainting (Telea)", "telea_", "each frame's holes filled from their rims"),
    )
    return MeasureTable(
        title=f"Novel views, {figures['views']} rendered cameras" if "views" in figures else "Novel views",
        reading=(
            "The true points are rendered from a camera that nobody trained on; the holes that open up are filled and "
            "compared with the true picture. PSNR in dB, higher is better; the holes are where the work is."
        ),
        columns=("in holes", "whole picture"),
        rows=tuple(
            MeasureRow(
                label, (_estimate(figures, f"hole_{key}psnr"), _estimate(figures, f"view_{key}psnr")), note,
                ours=not key,
            )
            for label, key, note in rows
        ),
        digits=1,
        chart_column=0,
    )  # fmt: skip


def _depth(figures: Figures) -> MeasureTable | None:
    names = sorted(key.removeprefix("stereo_").removesuffix("_correlation") for key in figures if _is_stereo(key))
    rows = [
        MeasureRow(
            f"{name.replace('_', ' ')} (stereo pair)",
            (_estimate(figures, f"stereo_{name}_error"), _estimate(figures, f"stereo_{name}_plane_error"), None),
            "a real photo: mean difference of inverse depth as a share of its mean, up to scale and shift",
        )
        for name in names
    ]
    if "depth_log_error" in figures:
        names = ("depth_log_error", "depth_plane_log_error", "depth_plane_ratio")
        values = tuple(_estimate(figures, name) for name in names)
        rows.insert(0, MeasureRow("held-out scenes", values, "rendered: mean difference of log depth", ours=True))
    if not rows:
        return None
    return MeasureTable(
        title="Depth",
        reading=(
            "First-frame depth from one picture, beside the best that one constant plane can do on the same picture. "
            "Lower is better; 0.1 in log depth is about 10 %."
        ),
        columns=("depth network", "best constant plane", "times better"),
        rows=tuple(rows),
    )


def _is_stereo(key: str) -> bool:
    return key.startswith("stereo_") and key.endswith("_correlation")


def _estimate(figures: Figures, name: str) -> Estimate | None:
    """The figure and its interval; None where it is missing or not a number (nothing to measure it on)."""
    value = figures.get(name)
    if value is None or not math.isfinite(value):
        return None
    return Estimate(float(value), figures.get(f"{name}_low"), figures.get(f"{name}_high"))


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of all groups side by side."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value) if isinstance(value, dict) else {key: value}
    return flat
