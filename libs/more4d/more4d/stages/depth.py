"""Stage depth: depth of every frame and the intrinsics of every selected clip."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from more4d.data.tables import read_accepted, require_accepted, verdict, write_table
from more4d.data.tensors import encode_arrays
from more4d.labeling.clips import Clip, by_labeler
from more4d.labeling.depth import DepthEstimator, DepthLabel, depth_estimator
from more4d.labeling.external import ExternalDepths, Site
from more4d.parallel import ordered_map
from more4d.settings import Section
from more4d.stages.base import Context, Stage
from more4d.weights.labelers import labeler_licences, refuse_noncommercial


class DepthParams(Section):
    """Who estimates the depth of which clips."""

    rendered: str
    real: str
    external: ExternalDepths = ExternalDepths()
    commercial_only: bool = False
    """Refuse networks whose licence forbids commercial use of what they make (models/weights.toml)."""
    max_rejected_share: float = Field(ge=0, le=1)


class DepthStage(Stage[DepthParams]):
    """One safetensors file a clip: depths [T, H, W] in metres and intrinsics [3, 3]."""

    name = "depth"
    section = DepthParams
    inputs = {
        "source": "datasets/source",
        "clips": "datasets/clips",
        "selection": "datasets/selection",
        "base": "models/tiny-base",
        "registry": "models/weights.toml",
    }
    outputs = {"depth": "datasets/depth"}

    def run(self, context: Context[DepthParams]) -> dict[str, float]:
        folder, params = context.outputs["depth"], context.params
        clips = selected_clips(context.inputs["clips"], context.inputs["selection"], context.inputs["source"])
        if params.commercial_only:
            refuse_noncommercial((params.rendered, params.real), context.root, stage=self.name)
        chosen = by_labeler(clips, rendered=params.rendered, real=params.real)
        site, base = Site(context.root, labeler_licences(chosen, context.root), context.spent), context.inputs["base"]
        estimators = {name: depth_estimator(name, base, external=params.external, site=site) for name in chosen}
        for name, estimator in estimators.items():
            estimator.prepare(chosen[name])
        estimate = partial(_estimate, params, estimators)
        rows = []
        for row, data in ordered_map(estimate, clips, workers=context.workers, label="clips"):
            if data:
                (folder / f"{row['clip_id']}.safetensors").write_bytes(data)
            rows.append(row)
        table = pd.DataFrame(rows)
        write_table(folder / "depth.parquet", table)
        counts = require_accepted(table, stage=self.name, max_rejected_share=params.max_rejected_share)
        return {**counts, "median_depth_m": float(np.nanmedian([row["median_depth_m"] for row in rows]))}


def selected_clips(clips: Path, selection: Path, source: Path) -> list[Clip]:
    """The clips that the selection accepted, in the clips' order."""
    chosen = set(read_accepted(selection / "selection.parquet")["clip_id"])
    rows = read_accepted(clips / "clips.parquet").to_dict("records")
    return [Clip.of_row(row, clips, source) for row in rows if row["clip_id"] in chosen]


def _estimate(
    params: DepthParams, estimators: Mapping[str, DepthEstimator], clip: Clip
) -> tuple[dict[str, Any], bytes]:
    estimator = estimators[clip.choose(rendered=params.rendered, real=params.real)]
    row: dict[str, Any] = {
        "clip_id": clip.clip_id,
        "model": estimator.info.model,
        "version": estimator.info.version,
        "licence": estimator.info.licence,
        "median_depth_m": float("nan"),
        "focal_px": float("nan"),
    }
    try:
        label = estimator.estimate(clip)
    except ValueError as error:
        return row | verdict([str(error)]), b""
    faults = _faults(label)
    row |= {"median_depth_m": float(np.median(label.depths[0])), "focal_px": float(label.intrinsics[0, 0])}
    facts = {key: row[key] for key in ("clip_id", "model", "version", "licence")}
    data = b"" if faults else encode_arrays({"depths": label.depths, "intrinsics": label.intrinsics}, facts)
    return row | verdict(faults), data


def _faults(label: DepthLabel) -> list[str]:
    bad = ~(np.isfinite(label.depths) & (label.depths > 0))
    # A stray pixel is left to the quality criteria; a clip without depth is no clip.
    return [f"{bad.mean():.0%} of the depths are not positive and finite"] if bad.mean() > 0.5 else []


STAGE = DepthStage()
