"""Stage tracks: where every first-frame pixel's point goes in three dimensions, for every clip with depth."""

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
from more4d.labeling.external import ExternalTrackers, Site
from more4d.labeling.flow_tracker import FlowTrackerParams
from more4d.labeling.tracks import Tracker, TrackLabel, read_depth, tracker
from more4d.parallel import ordered_map
from more4d.settings import Section
from more4d.stages.base import Context, Stage
from more4d.weights.labelers import labeler_licences, refuse_noncommercial

_MOVING_SHARE = 0.01
"""A point moves if it strays by more than this share of its first depth."""


class TracksParams(Section):
    """Who tracks which clips."""

    rendered: str
    real: str
    flow: FlowTrackerParams
    external: ExternalTrackers = ExternalTrackers()
    commercial_only: bool = False
    """Refuse networks, of the tracks and of the depth below them, whose licence forbids commercial use of what they make
    (models/weights.toml)."""
    min_visible_share: float = Field(ge=0, le=1)
    """Of all points and frames; a tracker that lost more has failed."""
    max_rejected_share: float = Field(ge=0, le=1)


class TracksStage(Stage[TracksParams]):
    """One safetensors file a clip: points, visibility, depth0, intrinsics, and who made them."""

    name = "tracks"
    section = TracksParams
    inputs = {
        "source": "datasets/source",
        "clips": "datasets/clips",
        "depth": "datasets/depth",
        "registry": "models/weights.toml",
    }
    outputs = {"tracks": "datasets/tracks"}

    def run(self, context: Context[TracksParams]) -> dict[str, float]:
        folder, inputs, params = context.outputs["tracks"], context.inputs, context.params
        depths = read_accepted(inputs["depth"] / "depth.parquet")
        if params.commercial_only:
            names = (params.rendered, params.real, *sorted(set(depths["model"])))
            refuse_noncommercial(names, context.root, stage=self.name)
        measured = set(depths["clip_id"])
        clips = [
            Clip.of_row(row, inputs["clips"], inputs["source"])
            for row in read_accepted(inputs["clips"] / "clips.parquet").to_dict("records")
            if row["clip_id"] in measured
        ]
        chosen = by_labeler(clips, rendered=params.rendered, real=params.real)
        site = Site(context.root, labeler_licences(chosen, context.root), context.spent)
        trackers = {name: tracker(name, params.flow, external=params.external, site=site) for name in chosen}
        for name, one in trackers.items():
            one.prepare(chosen[name], inputs["depth"])
        track = partial(_track, params, trackers, inputs["depth"])
        rows = []
        for row, data in ordered_map(track, clips, workers=context.workers, label="clips"):
            if data:
                (folder / f"{row['clip_id']}.safetensors").write_bytes(data)
            rows.append(row)
        table = pd.DataFrame(rows)
        write_table(folder / "tracks.parquet", table, params)
        counts = require_accepted(table, stage=self.name, max_rejected_share=params.max_rejected_share)
        means = {key: float(np.nanmean([row[key] for row in rows])) for key in ("visible_share", "moving_share")}
        return {**counts, **means}


def _track(
    params: TracksParams, trackers: Mapping[str, Tracker], depth_folder: Path, clip: Clip
) -> tuple[dict[str, Any], bytes]:
    chosen = trackers[clip.choose(rendered=params.rendered, real=params.real)]
    depth, depth_facts = read_depth(depth_folder, clip)
    row: dict[str, Any] = {
        "clip_id": clip.clip_id,
        "tracker": chosen.info.model,
        "version": chosen.info.version,
        "licence": chosen.info.licence,
        "depth_model": depth_facts["model"],
        "depth_version": depth_facts["version"],
        "depth_licence": depth_facts["licence"],
        "visible_share": float("nan"),
        "moving_share": float("nan"),
    }
    try:
        label = chosen.track(clip, depth)
    except ValueError as error:
        return row | verdict([str(error)]), b""
    facts = {key: value for key, value in row.items() if isinstance(value, str)}
    row |= {"visible_share": float(label.visibility.mean()), "moving_share": _moving_share(label)}
    faults = []
    if row["visible_share"] < params.min_visible_share:
        faults = [f"only {row['visible_share']:.0%} of the points are visible (below {params.min_visible_share:.0%})"]
    return row | verdict(faults), b"" if faults else _encode(label, facts)


def _encode(label: TrackLabel, facts: dict[str, Any]) -> bytes:
    arrays = {
        "points": label.points,
        "visibility": label.visibility,
        "depth0": label.depth0,
        "intrinsics": label.intrinsics,
    }
    return encode_arrays(arrays, facts)


def _moving_share(label: TrackLabel) -> float:
    strayed = np.linalg.norm(label.points - label.points[:1], axis=-1).max(0)
    return float((strayed > _MOVING_SHARE * label.depth0).mean())


STAGE = TracksStage()
