"""The report of the curated data as a folder: index.html, the pictures beside it, and a table of what was rejected."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from more4d.curation.records import write_csv
from more4d.data.shards import read_manifest
from more4d.data.tables import ACCEPTED
from more4d.report.curated.charts import describe, histogram_svg
from more4d.report.curated.findings import Finding, findings
from more4d.report.curated.gallery import Choice, Panel, Sheet, choose
from more4d.report.curated.journey import STAGES, Step, follow, funnel, funnels_by
from more4d.report.curated.reasons import Kind, folding, reason_kinds, split_reasons
from more4d.report.curated.scores import Distribution, Score, distributions, limit, scores_of, with_lengths
from more4d.report.curated.sources import LicenceCount, SourceSummary, licence_counts, real_videos, source_summaries
from more4d.report.curated.tables import Tables, column, rows_where, text_of
from more4d.report.viewer import asset, content_policy, environment

REJECTED_CSV = "rejected.csv"
IMAGES = "images"
_CSV_COLUMNS = ["origin", "split", "source_table", "source_row", "videoid", "clip_id", "stage", "verdict", "reason"]
_TABLES_SHOWN = 20
_DASH = "\N{EM DASH}"


@dataclass(frozen=True)
class Limits:
    """How much the page shows: rendered samples, real clips and rejected rows; what is left out is counted."""

    rendered: int
    real: int
    listed: int


@dataclass(frozen=True)
class Facts:
    """Everything the page says, without the pictures."""

    seed: int
    settings: Mapping[str, Any]
    tables: Tables
    journey: pd.DataFrame
    kinds: tuple[Kind, ...]
    found: tuple[Distribution, ...]
    licences: tuple[LicenceCount, ...]
    sources: tuple[SourceSummary, ...]
    findings: tuple[Finding, ...]
    choice: Choice


def gather(tables: Tables, settings: Mapping[str, Any], trajscene: Path, *, seed: int, limits: Limits) -> Facts:
    """What the tables say; `settings` by stage. Raises ValueError where runs are mixed or a limit is no setting."""
    journey = follow(tables)
    folded = folding(journey)
    kinds, licences = reason_kinds(journey, folded), licence_counts(journey, tables)
    stored = {split: int(part["samples"]) for split, part in read_manifest(str(trajscene))["splits"].items()}
    return Facts(
        seed, settings, tables, journey, kinds, distributions(tables, settings), licences,
        source_summaries(journey, folded),
        findings(journey, tables, settings, stored, licences),
        choose(journey, kinds, rendered=limits.rendered, real=limits.real, seed=seed),
    )  # fmt: skip


def chosen_rows(facts: Facts) -> list[dict[str, Any]]:
    """The journey's rows of the gallery, in its order."""
    return facts.journey.iloc[list(facts.choice.items)].to_dict("records")


def write_report(facts: Facts, sheets: Iterable[Sheet], folder: Path, limits: Limits) -> None:
    """Fill the empty folder; `sheets` are those of `chosen_rows`, in order. The same facts give the same bytes."""
    (folder / IMAGES).mkdir()
    items = list(_gallery(facts, sheets, folder))
    refused = _rejected(facts.journey)
    write_csv(folder / REJECTED_CSV, _CSV_COLUMNS, refused.loc[:, _CSV_COLUMNS].to_dict("records"))
    (folder / "index.html").write_text(render_page(facts, items, refused, limits), encoding="utf-8")


def render_page(facts: Facts, items: list[dict[str, Any]], refused: pd.DataFrame, limits: Limits) -> str:
    """The page; every value is escaped, and the pictures are the folder's own files."""
    script = asset("data.js")
    journey, anchors = facts.journey, {item["position"]: item["anchor"] for item in items}
    return (
        environment()
        .get_template("data.html.j2")
        .render(
            styles=asset("page.css") + asset("data.css"), script=script,
            policy=content_policy(script, "'self' file: data:"), dash=_DASH,
            seed=facts.seed, findings=facts.findings,
            funnel=_funnel(funnel(journey)), splits=_funnel_table(funnels_by(journey, ["origin", "split"])),
            by_source=_funnel_table(funnels_by(journey, ["source_table"])),
            reasons=_reasons(facts.kinds, anchors), charts=[_chart(found) for found in facts.found],
            sources=facts.sources[:_TABLES_SHOWN], more_sources=_more_sources(journey),
            videos=real_videos(journey, limits.real), more_videos=_more_videos(journey, limits.real),
            licences=facts.licences, distractors=_distractors(journey), items=items,
            left_out=facts.choice.real_left_out, refused=_listed(refused, limits.listed, anchors),
            refused_count=len(refused), rejected_csv=REJECTED_CSV, stages=STAGES,
            origins=sorted({str(item["row"]["origin"]) for item in items}),
        )
    )  # fmt: skip


def _rejected(journey: pd.DataFrame) -> pd.DataFrame:
    refused = rows_where(journey, column(journey, "verdict") != ACCEPTED)
    order = {stage: place for place, stage in enumerate(STAGES)}
    return refused.assign(_place=column(refused, "stage").map(order)).sort_values(["_place"], kind="stable")


def _listed(refused: pd.DataFrame, count: int, anchors: Mapping[int, str]) -> list[dict[str, Any]]:
    """The first rows of the table, real ones before others."""
    first = refused.assign(_other=refused["origin"] != "real").sort_values(["_other"], kind="stable").head(count)
    rows = first.to_dict("records")
    return [{**row, "anchor": anchors.get(i, "")} for row, i in zip(rows, first.index.tolist(), strict=True)]


def _funnel(steps: tuple[Step, ...]) -> list[dict[str, object]]:
    most = max((step.entered for step in steps), default=1) or 1
    return [
        {
            "step": step,
            "share": _percent(step.kept, step.entered),
            "kept_width": f"{step.kept / most:.4f}",
            "gone_width": f"{(step.rejected + step.lost) / most:.4f}",
        }
        for step in steps
    ]


def _funnel_table(funnels: Mapping[str, tuple[Step, ...]]) -> dict[str, Any]:
    rows = [
        {
            "name": name,
            "counts": (steps[0].entered, steps[0].kept, steps[1].entered, *(step.kept for step in steps[1:])),
            "share": _percent(steps[-1].kept, steps[1].entered),
        }
        for name, steps in islice(funnels.items(), _TABLES_SHOWN)
    ]
    heads = ("rows", "fetched", "windows", "kept", "captioned", "selected", "depth", "tracked", "samples")
    return {"heads": heads, "rows": rows, "more": max(0, len(funnels) - _TABLES_SHOWN)}


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else _DASH


def _reasons(kinds: tuple[Kind, ...], anchors: Mapping[int, str]) -> list[dict[str, object]]:
    ordered = sorted(kinds, key=lambda kind: STAGES.index(kind.stage))
    totals = {stage: sum(kind.count for kind in kinds if kind.stage == stage) for stage in STAGES}
    return [
        {"kind": kind, "share": _percent(kind.count, totals[kind.stage]), "anchor": anchors.get(kind.example, "")}
        for kind in ordered
    ]


def _chart(found: Distribution) -> dict[str, object]:
    score = found.score
    numbers = [_number(found.quantile(share), score.digits) for share in (0.05, 0.5, 0.95)]
    unlike = [f"{found.missing:,} not measured"] if found.missing else []
    unlike += [f"{found.infinite:,} infinite"] if found.infinite else []
    return {
        "score": score,
        "svg": histogram_svg(found),
        "sentence": describe(found) if len(found.values) else f"{score.title}: nothing was measured",
        "count": len(found.values),
        "numbers": numbers,
        "limits": _limits(score, found.low, found.high),
        "outside": found.outside if found.low is not None or found.high is not None else None,
        "note": ", ".join(unlike),
    }


def _limits(score: Score, low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    return "" if low is None and high is None else (f"at least {low:g}" if low is not None else f"at most {high:g}")


def _number(value: float | None, digits: int) -> str:
    return _DASH if value is None else f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _more_sources(journey: pd.DataFrame) -> int:
    return max(0, journey.groupby(["source_table", "origin"]).ngroups - _TABLES_SHOWN) if len(journey) else 0


def _more_videos(journey: pd.DataFrame, limit: int) -> int:
    real = rows_where(journey, column(journey, "origin") == "real")
    return max(0, len(real.drop_duplicates(["source_table", "source_row", "videoid"])) - limit)


def _distractors(journey: pd.DataFrame) -> dict[str, Any] | None:
    """Kind of distractor by the stage at which it ended; None where the tables have none."""
    if "distractor" not in journey.columns:
        return None
    ended = column(journey, "stage").where(column(journey, "verdict") != ACCEPTED, ACCEPTED)
    counts = Counter(pair for pair in zip(text_of(journey, "distractor"), ended, strict=True) if pair[0])
    if not counts:
        return None
    heads = [name for name in (*STAGES, ACCEPTED) if any(stage == name for _, stage in counts)]
    kinds = sorted({kind for kind, _ in counts})
    return {"heads": heads, "rows": [(kind, [counts[kind, head] for head in heads]) for kind in kinds]}


def _gallery(facts: Facts, sheets: Iterable[Sheet], folder: Path) -> Iterator[dict[str, Any]]:
    """What the template shows of each item; its pictures are written as they come."""
    rows = chosen_rows(facts)
    judged = _verdict_rows(facts, [row["clip_id"] for row in rows])
    captions = _captions(facts.tables["captions"], {row["clip_id"] for row in rows})
    for number, (row, position, sheet) in enumerate(zip(rows, facts.choice.items, sheets, strict=True)):
        caption = captions.get(row["clip_id"]) or row["name"] or ""
        yield {
            "anchor": f"item-{number}",
            "position": position,
            "row": row,
            "caption": str(caption),
            "reasons": split_reasons(str(row["reason"])) if row["verdict"] != ACCEPTED else [],
            "panels": [_picture(panel, f"{number:04d}-{i}", folder) for i, panel in enumerate(sheet.panels)],
            "note": sheet.note,
            "verdicts": judged.get(row["clip_id"], []),
            "search": " ".join(str(row[key]) for key in ("videoid", "clip_id", "source_table")) + f" {caption}",
        }


def _captions(table: pd.DataFrame, ids: set[str]) -> dict[str, str]:
    rows = rows_where(table, column(table, "clip_id").isin(ids))
    return dict(zip(rows["clip_id"], text_of(rows, "caption"), strict=True))


def _picture(panel: Panel, name: str, folder: Path) -> dict[str, Any]:
    file = f"{IMAGES}/{name}-{panel.kind}.webp"
    (folder / file).write_bytes(panel.data)
    near, far = panel.metres or (0.0, 0.0)
    scale = [f"{near:.3g} m", f"{(near * far) ** 0.5:.3g} m", f"{far:.3g} m"] if panel.metres else []
    return {"file": file, "label": panel.label, "kind": panel.kind, "scale": scale}


def _verdict_rows(facts: Facts, clip_ids: list[str]) -> dict[str, list[dict[str, Any]]]:
    """For each clip its verdict and measured values of every stage that judged it."""
    wanted = set(clip_ids) - {""}
    judged: dict[str, list[dict[str, Any]]] = {clip: [] for clip in wanted}
    measured = with_lengths(facts.tables)
    for stage in STAGES[1:]:
        table, scores = measured[stage], [score for score in scores_of(measured) if score.stage == stage]
        for row in rows_where(table, column(table, "clip_id").isin(wanted)).to_dict("records"):
            values = [_value(score, row[score.column], facts.settings) for score in scores]
            judged[row["clip_id"]].append(
                {
                    "stage": stage,
                    "verdict": row["verdict"],
                    "reason": row["reason"],
                    "values": [v for v in values if v],
                    "by": _made_by(stage, row),
                }
            )
    return judged


_BY = {
    "clips": ("shot_detector", "text_detector"),
    "captions": ("captioner",),
    "selection": ("judge",),
    "depth": ("model",),
    "tracks": ("tracker",),
}


def _made_by(stage: str, row: Mapping[str, Any]) -> str:
    return ", ".join(str(row[column]) for column in _BY.get(stage, ()) if row.get(column))


def _value(score: Score, value: float, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The value in words with its limit, and whether it is beyond; None where it was not measured."""
    if pd.isna(value):
        return None
    low, high = limit(settings, score.low), limit(settings, score.high)
    beyond = (low is not None and value < low) or (high is not None and value > high)
    text = f"{score.title.lower()} {value:,.{score.digits}f}" + (f" {score.unit}" if len(score.unit) < 3 else "")
    rule = _limits(score, low, high)
    return {"text": text, "rule": f"({rule})" if rule else "", "beyond": bool(beyond)}
