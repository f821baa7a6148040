"""Stage captions: a sentence for every clip."""

from pathlib import Path
from typing import Any, Literal, Self

import pandas as pd
from pydantic import Field, model_validator

from more4d.curation.captions import Caption, CaptionRequest, FrameSettings, captioner
from more4d.curation.llm.accounting import answer_columns, answer_metrics
from more4d.curation.llm.cache import AnswerCache
from more4d.curation.llm.settings import ServerSettings
from more4d.data.tables import read_accepted, require_accepted, verdict, write_table
from more4d.settings import Section
from more4d.stages.base import Context, Stage


class CaptionsParams(Section):
    """Who writes the captions, and what counts as one."""

    captioner: Literal["table", "vlm"]
    server: ServerSettings | None = None
    """Where the vision-language model is; captioner vlm needs it."""
    frames: FrameSettings = FrameSettings()
    prompt_file: str | None = None
    """Another wording for the captioner, in the workspace; DVC does not watch it, the table states its hash."""
    undecided: Literal["reject", "keep"] = "reject"
    """What becomes of a clip that the model gave no usable caption: rejected, or kept with the table's own."""
    min_words: int = Field(ge=1)
    max_characters: int = Field(ge=16)
    max_rejected_share: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _has_a_server_to_ask(self) -> Self:
        if self.captioner == "vlm" and self.server is None:
            raise ValueError("captioner vlm needs a server: give captions.server its base_url and model")
        return self


class CaptionsStage(Stage[CaptionsParams]):
    """One caption for each accepted clip, with who wrote it."""

    name = "captions"
    section = CaptionsParams
    inputs = {"clips": "datasets/clips"}
    outputs = {"captions": "datasets/captions"}

    def run(self, context: Context[CaptionsParams]) -> dict[str, float]:
        params = context.params
        clips = read_accepted(context.inputs["clips"] / "clips.parquet").to_dict("records")
        # Not in context.work: what models answered is worth more than one run of the stage.
        cache = AnswerCache(context.root / ".cache" / "answers")
        prompt_file = context.root / params.prompt_file if params.prompt_file else None
        writer = captioner(params.captioner, params.server, cache, params.frames, prompt_file)
        requests = [CaptionRequest(c["clip_id"], context.inputs["clips"] / c["path"], c["name"]) for c in clips]
        own = {r.clip_id: r.table_caption for r in requests}
        about = {"captioner": writer.name, "captioner_version": writer.version, "model": writer.model}
        rows = [_row(answer, own[answer.clip_id], about, params) for answer in writer.caption_all(requests)]
        table = pd.DataFrame(rows)
        write_table(context.outputs["captions"] / "captions.parquet", table, params)
        counts = require_accepted(table, stage=self.name, max_rejected_share=params.max_rejected_share)
        return {**counts, "mean_words": _mean_words(rows), **answer_metrics(rows)}


def _row(answer: Caption, table_caption: str, about: dict[str, str], params: CaptionsParams) -> dict[str, Any]:
    text, by = answer.text, about
    if answer.undecided and params.undecided == "keep":
        # Under its own name: a caption that stands in for another never takes its captioner's.
        substitute = captioner("table")
        (kept,) = substitute.caption_all([CaptionRequest(answer.clip_id, Path(), table_caption)])
        text, by = kept.text, about | {"captioner": substitute.name, "captioner_version": substitute.version}
    faults = [f"undecided: {answer.undecided}"] if answer.undecided and not text else _faults(text, params)
    return {
        "clip_id": answer.clip_id,
        "caption": text[: params.max_characters].strip(),
        **by,
        **answer_columns(answer.spent, undecided=bool(answer.undecided)),
        **verdict(faults),
    }


def _faults(text: str, params: CaptionsParams) -> list[str]:
    words = len(text.split())
    return [] if words >= params.min_words else [f"the caption has {words} words (below {params.min_words})"]


def _mean_words(rows: list[dict[str, Any]]) -> float:
    return round(sum(len(row["caption"].split()) for row in rows) / len(rows), 3)


STAGE = CaptionsStage()
