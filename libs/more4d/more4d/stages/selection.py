"""Stage selection: which clips show countable things that move by themselves, by their captions."""

from typing import Any, Literal, Self

import pandas as pd
from pydantic import Field, model_validator

from more4d.curation.llm.accounting import answer_columns, answer_metrics
from more4d.curation.llm.cache import AnswerCache
from more4d.curation.llm.settings import ServerSettings
from more4d.curation.selection import CRITERIA, Judgement, judge
from more4d.data.tables import read_accepted, require_accepted, verdict, write_table
from more4d.settings import Section
from more4d.stages.base import Context, Stage


class SelectionParams(Section):
    """Who judges the captions."""

    judge: Literal["rules", "llm"]
    server: ServerSettings | None = None
    """Where the language model is; judge llm needs it."""
    prompt_files: dict[str, str] = Field(default_factory=dict)
    """Other wordings by criterion, in the workspace; DVC does not watch them, the table states their hashes."""
    undecided: Literal["reject", "keep"] = "reject"
    """What becomes of a clip that is undecided by one criterion and not refused by another."""
    max_rejected_share: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _has_a_server_to_ask(self) -> Self:
        if self.judge == "llm" and self.server is None:
            raise ValueError("judge llm needs a server: give selection.server its base_url and model")
        if unknown := sorted(set(self.prompt_files) - set(CRITERIA)):
            raise ValueError(f"prompt_files names {', '.join(unknown)}; the criteria are {', '.join(CRITERIA)}")
        return self


class SelectionStage(Stage[SelectionParams]):
    """A flag and a reason for each criterion and clip."""

    name = "selection"
    section = SelectionParams
    inputs = {"captions": "datasets/captions"}
    outputs = {"selection": "datasets/selection"}

    def run(self, context: Context[SelectionParams]) -> dict[str, float]:
        params = context.params
        captions = read_accepted(context.inputs["captions"] / "captions.parquet").to_dict("records")
        # Not in context.work: what models answered is worth more than one run of the stage.
        cache = AnswerCache(context.root / ".cache" / "answers")
        prompt_files = {name: context.root / path for name, path in params.prompt_files.items()}
        chosen = judge(params.judge, params.server, cache, prompt_files)
        judgements = chosen.judge_all((row["clip_id"], row["caption"]) for row in captions)
        about = {"judge": chosen.name, "judge_version": chosen.version, "model": chosen.model}
        rows = [_row(judgement, params.undecided) | about for judgement in judgements]
        table = pd.DataFrame(rows)
        write_table(context.outputs["selection"] / "selection.parquet", table)
        counts = require_accepted(table, stage=self.name, max_rejected_share=params.max_rejected_share)
        passed = {f"{name}_share": sum(row[name] == "yes" for row in rows) / len(rows) for name in CRITERIA}
        return {**counts, **passed, **answer_metrics(rows)}


def _row(judgement: Judgement, undecided: str) -> dict[str, Any]:
    row: dict[str, Any] = {"clip_id": judgement.clip_id}
    faults = []
    for name in CRITERIA:
        answer = judgement.answers[name]
        row[name] = {True: "yes", False: "no", None: "undecided"}[answer.flag]
        row[f"{name}_reason"] = answer.reason
        if answer.flag is False or (answer.flag is None and undecided == "reject"):
            faults.append(f"{name} {row[name]}: {answer.reason}")
    lacking = any(answer.flag is None for answer in judgement.answers.values())
    return row | answer_columns(judgement.spent, undecided=lacking) | verdict(faults)


STAGE = SelectionStage()
