"""Stage captions: a sentence for every clip."""

from typing import Any

import pandas as pd
from pydantic import Field

from more4d.curation.captions import CaptionRequest, captioner
from more4d.data.tables import read_accepted, require_accepted, verdict, write_table
from more4d.settings import Section
from more4d.stages.base import Context, Stage


class CaptionsParams(Section):
    """Who writes the captions, and what counts as one."""

    captioner: str
    min_words: int = Field(ge=1)
    max_characters: int = Field(ge=16)
    max_rejected_share: float = Field(ge=0, le=1)


class CaptionsStage(Stage[CaptionsParams]):
    """One caption for each accepted clip, with who wrote it."""

    name = "captions"
    section = CaptionsParams
    inputs = {"clips": "datasets/clips"}
    outputs = {"captions": "datasets/captions"}

    def run(self, context: Context[CaptionsParams]) -> dict[str, float]:
        params = context.params
        clips = read_accepted(context.inputs["clips"] / "clips.parquet").to_dict("records")
        writer = captioner(params.captioner)
        requests = [CaptionRequest(c["clip_id"], context.inputs["clips"] / c["path"], c["name"]) for c in clips]
        answers = list(writer.caption_all(requests))
        rows = [
            {
                "clip_id": answer.clip_id,
                "caption": answer.text[: params.max_characters].strip(),
                "captioner": writer.name,
                "captioner_version": writer.version,
                **verdict(_faults(answer.text, params)),
            }
            for answer in answers
        ]
        table = pd.DataFrame(rows)
        write_table(context.outputs["captions"] / "captions.parquet", table)
        counts = require_accepted(table, stage=self.name, max_rejected_share=params.max_rejected_share)
        return {**counts, "mean_words": _mean_words(rows)}


def _faults(text: str, params: CaptionsParams) -> list[str]:
    words = len(text.split())
    return [] if words >= params.min_words else [f"the caption has {words} words (below {params.min_words})"]


def _mean_words(rows: list[dict[str, Any]]) -> float:
    return round(sum(len(row["caption"].split()) for row in rows) / len(rows), 3)


STAGE = CaptionsStage()
