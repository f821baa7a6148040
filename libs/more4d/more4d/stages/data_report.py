"""Stage data_report: the page an engineer reads before training: what became of every row, why, and how samples look."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from more4d.parallel import ordered_map
from more4d.report.curated.gallery import draw, jobs
from more4d.report.curated.journey import funnel
from more4d.report.curated.page import Facts, Limits, chosen_rows, gather, write_report
from more4d.report.curated.tables import TABLES, read_tables
from more4d.settings import Section
from more4d.stages.base import Context, Stage
from more4d.stages.captions import CaptionsParams
from more4d.stages.clips import ClipsParams
from more4d.stages.tracks import TracksParams
from more4d.stages.trajscene import TrajsceneParams

LIMITS_OF: Mapping[str, type[Section]] = {
    "clips": ClipsParams,
    "captions": CaptionsParams,
    "tracks": TracksParams,
    "trajscene": TrajsceneParams,
}
"""The stages whose limits the page draws beside their scores."""


class DataReportParams(Section):
    """How much the page shows; what it leaves out it counts."""

    gallery: int = Field(ge=0, le=1000)
    """Contact sheets of rendered samples, drawn by the seed; an example of each kind of reason comes on top."""
    real: int = Field(ge=0, le=5000, default=400)
    """Contact sheets of real clips, and lines in the table of real videos: the first ones."""
    listed: int = Field(ge=0, le=20_000, default=1000)
    """Rejected rows on the page; the file beside it holds all."""


class DataReportStage(Stage[DataReportParams]):
    """results/data: index.html, its pictures, and rejected.csv."""

    name = "data_report"
    section = DataReportParams
    inputs = {stage: f"datasets/{stage}" for stage in TABLES}
    outputs = {"data": "results/data"}
    other_params = ("preset", *LIMITS_OF)
    """What dvc.yaml must name besides the stage's own section: the page states these."""

    def run(self, context: Context[DataReportParams]) -> dict[str, float]:
        """How many rows, windows and samples; how many were lost; how many findings are problems."""
        params, folders = context.params, context.inputs
        limits = Limits(params.gallery, params.real, params.listed)
        # .cache/work/<this stage> of the workspace.
        preset, settings = read_limits(context.work.parents[2] / "params.yaml")
        facts = gather(
            read_tables(folders), settings, folders["trajscene"], preset=preset, seed=context.seed, limits=limits
        )
        todo = list(jobs(chosen_rows(facts), folders, facts.tables))
        sheets = ordered_map(draw, todo, workers=context.workers, label="contact sheets")
        write_report(facts, sheets, context.outputs["data"], limits)
        return _metrics(facts)


def read_limits(file: Path) -> tuple[str, dict[str, Any]]:
    """The preset's name and the parameters of the stages in LIMITS_OF. Raises ValueError naming file and section."""
    if not file.is_file():
        raise ValueError(f"the report states the limits of the stages: {file} is missing; write it from a preset")
    values = yaml.safe_load(file.read_text())
    settings = {}
    for stage, section in LIMITS_OF.items():
        try:
            settings[stage] = section.model_validate(values[stage]).model_dump()
        except (KeyError, TypeError, ValidationError) as error:
            raise ValueError(f"{file} has no valid section {stage}: {error}") from error
    return str(values.get("preset", "unknown")), settings


def _metrics(facts: Facts) -> dict[str, float]:
    steps = {step.stage: step for step in funnel(facts.journey)}
    return {
        "rows": steps["source"].entered,
        "videos": steps["source"].kept,
        "windows": steps["clips"].entered,
        "samples": steps["trajscene"].kept,
        "lost": sum(step.lost for step in steps.values()),
        "sheets": len(facts.choice.items),
        "real_clips_left_out": facts.choice.real_left_out,
        "problems": sum(item.level == "problem" for item in facts.findings),
        "warnings": sum(item.level == "warning" for item in facts.findings),
    }


STAGE = DataReportStage()
