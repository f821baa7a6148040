"""Stage selection: which clips show countable things that move by themselves, by their captions."""

from typing import Any

import pandas as pd
from pydantic import Field

from more4d.curation.selection import CRITERIA, Judgement, judge
from more4d.data.tables import read_accepted, require_accepted, verdict, write_table
from more4d.settings import Section
from more4d.stages.base import Context, Stage


class SelectionParams(Section):
    """Who judges the captions."""

    judge: str
    max_rejected_share: float = Field(ge=0, le=1)


class SelectionStage(Stage[SelectionParams]):
    """A flag and a reason for each criterion and clip."""

    name = "selection"
    section = SelectionParams
    inputs = {"captions": "datasets/captions"}
    outputs = {"selection": "datasets/selection"}

    def run(self, context: Context[SelectionParams]) -> dict[str, float]:
        captions = read_accepted(context.inputs["captions"] / "captions.parquet").to_dict("records")
        chosen = judge(context.params.judge)
        judgements = chosen.judge_all((row["clip_id"], row["caption"]) for row in captions)
        about = {"judge": chosen.name, "judge_version": chosen.version}
        rows = [_row(judgement) | about for judgement in judgements]
        table = pd.DataFrame(rows)
        write_table(context.outputs["selection"] / "selection.parquet", table)
        counts = require_accepted(table, stage=self.name, max_rejected_share=context.params.max_rejected_share)
        passed = {f"{name}_share": sum(row[name] == "yes" for row in rows) / len(rows) for name in CRITERIA}
        return {**counts, **passed}


def _row(judgement: Judgement) -> dict[str, Any]:
    row: dict[str, Any] = {"clip_id": judgement.clip_id}
    faults = []
    for name in CRITERIA:
        answer = judgement.answers[name]
        row[name] = {True: "yes", False: "no", None: "undecided"}[answer.flag]
        row[f"{name}_reason"] = answer.reason
        if answer.flag is not True:
            faults.append(f"{name} {row[name]}: {answer.reason}")
    return row | verdict(faults)


STAGE = SelectionStage()
