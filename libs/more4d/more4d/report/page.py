"""The result page: the whole of a workspace's outcome as one HTML file."""

from dataclasses import dataclass
from pathlib import Path

from more4d.data.atomic import atomic_write_bytes
from more4d.report.figures import curve_svg, table_svg
from more4d.report.model import Estimate, FunnelStep, GalleryItem, Image, MeasureTable, PageData, StageTime
from more4d.report.parts import PARTS
from more4d.report.pictures import PANEL_WIDTH, image_url
from more4d.report.viewer import render_template, scene_card

_MINUS = "\N{MINUS SIGN}"
_BETWEEN = "\N{EN DASH}"


@dataclass(frozen=True)
class _Cell:
    value: str
    interval: str = ""


def write_page(data: PageData, path: Path) -> None:
    """Put the page at `path`: a reader sees the old page or the new one, never a part."""
    atomic_write_bytes(path, render_page(data).encode())


def render_page(data: PageData) -> str:
    """The page as HTML that needs no other file and no network; the same data gives the same text."""
    return render_template(
        "page.html.j2",
        run=data.run,
        scenes=[scene_card(scene) for scene in data.scenes],
        tables=[_table(table) for table in data.tables],
        comparisons=[_pictures(item.clip, item.caption, item.panels) for item in data.comparisons],
        curves=[{"title": curve.title, "svg": curve_svg(curve)} for curve in data.curves],
        kept=[_gallery_item(item) for item in data.gallery if item.kept],
        rejected=[_gallery_item(item) for item in data.gallery if not item.kept],
        funnel=_funnel(data.funnel),
        times=_times(data.times),
        total_time=duration(sum(time.seconds for time in data.times)),
        acknowledgements=data.acknowledgements,
        data_report=data.data_report,
        problems=data.problems,
        parts=PARTS,
    )


def duration(seconds: float) -> str:
    """Seconds as people say them: "0.4 s", "38 s", "3 min 20 s", "2 h 05 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _table(table: MeasureTable) -> dict[str, object]:
    rows = [
        {"label": row.label, "note": row.note, "ours": row.ours, "cells": [_cell(v, table.digits) for v in row.values]}
        for row in table.rows
    ]
    chart = table_svg(table) if table.chart_column is not None else ""
    return {"title": table.title, "reading": table.reading, "columns": table.columns, "rows": rows, "chart": chart}


def _cell(estimate: Estimate | None, digits: int) -> _Cell:
    if estimate is None:
        return _Cell("\N{EM DASH}")
    value = _number(estimate.value, digits)
    if estimate.low is None or estimate.high is None:
        return _Cell(value)
    return _Cell(value, f"[{_number(estimate.low, digits)}{_BETWEEN}{_number(estimate.high, digits)}]")


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", _MINUS)


def _gallery_item(item: GalleryItem) -> dict[str, object]:
    about = {"origin": item.origin, "stage": item.stage, "reason": item.reason}
    return _pictures(item.clip, item.caption, item.panels) | about


def _pictures(clip: str, caption: str, panels: tuple[tuple[str, Image], ...]) -> dict[str, object]:
    urls = [(label, image_url(picture, width=PANEL_WIDTH, quality=82)) for label, picture in panels]
    return {"clip": clip, "caption": caption, "panels": urls}


def _funnel(steps: tuple[FunnelStep, ...]) -> list[dict[str, object]]:
    most = max((step.kept + step.rejected for step in steps), default=1) or 1
    return [
        {
            "stage": step.stage,
            "kept": step.kept,
            "rejected": step.rejected,
            "reasons": step.reasons,
            "kept_share": f"{step.kept / most:.4f}",
            "lost_share": f"{step.rejected / most:.4f}",
        }
        for step in steps
    ]


def _times(times: tuple[StageTime, ...]) -> list[dict[str, str]]:
    longest = max((time.seconds for time in times), default=1.0) or 1.0
    return [
        {"stage": time.stage, "text": duration(time.seconds), "share": f"{time.seconds / longest:.4f}"}
        for time in times
    ]
