"""Stage data_report: the page an engineer reads before training: what became of every row, why, and how samples look."""

from pydantic import Field

from more4d.parallel import ordered_map
from more4d.report.curated.gallery import draw, jobs
from more4d.report.curated.journey import funnel
from more4d.report.curated.page import Facts, Limits, chosen_rows, gather, write_report
from more4d.report.curated.scores import read_limits
from more4d.report.curated.tables import TABLES, read_tables
from more4d.settings import Section
from more4d.stages.base import Context, Stage


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

    def run(self, context: Context[DataReportParams]) -> dict[str, float]:
        """How many rows, windows and samples; how many were lost; how many findings are problems."""
        params, folders = context.params, context.inputs
        limits = Limits(params.gallery, params.real, params.listed)
        tables = read_tables(folders)
        facts = gather(tables, read_limits(folders), folders["trajscene"], seed=context.seed, limits=limits)
        todo = list(jobs(chosen_rows(facts), folders, facts.tables))
        sheets = ordered_map(draw, todo, workers=context.workers, label="contact sheets")
        write_report(facts, sheets, context.outputs["data"], limits)
        return _metrics(facts)


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
