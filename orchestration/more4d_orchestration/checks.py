"""Asset checks that a stage can name under `meta.dagster.checks`. All block: a wrong output goes no further.

A check is a function of the stage's report and its options; it returns what it found and whether that will do.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from statistics import fmean
from typing import Any

from more4d.data.shards import verify_shards

from more4d_orchestration.report import StageReport, verdicts


@dataclass(frozen=True)
class Verdict:
    """Outcome of a check: the figures it rests on, and a sentence for the one who has to act on it."""

    passed: bool
    sentence: str
    figures: Mapping[str, float]


def not_empty(report: StageReport) -> Verdict:
    """Every data output holds bytes, every table rows and accepted rows, every manifest samples."""
    figures: dict[str, float] = {}
    for path in report.node.paths("data"):
        figures[f"bytes in {path}"] = _bytes(report.root / path)
        figures |= _manifest_counts(report.root, path)
    for path, table in report.tables().items():
        figures[f"rows in {path}"] = len(table)
        if "verdict" in table.columns:
            figures[f"accepted rows in {path}"] = verdicts(table).count("accepted")
    empty = [name for name, count in figures.items() if not count]
    sentence = f"no {', no '.join(empty)}" if empty else "every output holds something"
    return Verdict(not empty, sentence, figures)


def no_reject_flood(report: StageReport, max_share: float | None = None) -> Verdict:
    """At most `max_share` of the rows of each table with verdicts are rejected.

    Left out, it is the stage's own parameter max_rejected_share, or a half where the stage has none.
    """
    limit = max_share if max_share is not None else float(report.parameter("max_rejected_share", 0.5))
    shares = {
        f"rejected share of {path}": verdicts(table).count("rejected") / len(table)
        for path, table in report.tables().items()
        if "verdict" in table.columns and len(table)
    }
    flooded = [f"{name} is {share:.0%}" for name, share in shares.items() if share > limit]
    reasons = ", ".join(f"{reason} ({rows})" for reason, rows in report.rejections().items())
    sentence = f"{'; '.join(flooded)}, above {limit:.0%}: {reasons}" if flooded else "few enough rows are rejected"
    return Verdict(not flooded, sentence, shares)


def finite_metrics(report: StageReport) -> Verdict:
    """The stage reports at least one metric, and every one is a finite number."""
    metrics = report.metrics()
    wrong = sorted(name for name, value in metrics.items() if not math.isfinite(value))
    if not metrics:
        return Verdict(False, f"no number in {', '.join(report.node.paths('metric')) or 'metrics: none declared'}", {})
    return Verdict(not wrong, f"not finite: {', '.join(wrong)}" if wrong else "all finite", {"metrics": len(metrics)})


def intact_shards(report: StageReport) -> Verdict:
    """Every shard and index has the hash that its manifest declares."""
    faults = [fault for path in report.node.paths("data") for fault in verify_shards(str(report.root / path))]
    return Verdict(not faults, "; ".join(faults) or "every shard is as its manifest says", {"faults": len(faults)})


def learned(report: StageReport, share: float = 0.1) -> Verdict:
    """The mean of the plotted loss over the last `share` of the run is below that over the first: from nothing."""
    return _compare_ends(report, share, 1.0, "the loss fell")


def not_diverged(report: StageReport, share: float = 0.1, factor: float = 3.0) -> Verdict:
    """The plotted loss ends below `factor` times what it began with.

    For fine-tuning: it begins where the base ended, so that the loss of single batches need not fall.
    """
    return _compare_ends(report, share, factor, f"the loss stayed below {factor:g} times its beginning")


def _compare_ends(report: StageReport, share: float, factor: float, sentence: str) -> Verdict:
    figures: dict[str, float] = {}
    failed = [] if report.plots() else ["no training curve is declared"]
    for out, table in report.plots():
        column = [float(value) for value in table[str(out.y)].tolist()]
        span = max(1, int(len(column) * share))
        first, last = (fmean(part) if part else math.nan for part in (column[:span], column[-span:]))
        figures |= {f"first {out.y}": first, f"last {out.y}": last}
        if not last < factor * first:
            failed.append(f"{out.path}: {out.y} went from {first:.4g} to {last:.4g}")
    return Verdict(not failed, "; ".join(failed) or sentence, figures)


CHECKS: dict[str, Callable[..., Verdict]] = {
    check.__name__: check
    for check in (not_empty, no_reject_flood, finite_metrics, intact_shards, learned, not_diverged)
}


def find_check(name: str, options: Mapping[str, Any]) -> Callable[[StageReport], Verdict]:
    """The check called `name` with its options bound. Raises ValueError listing what is known."""
    if name not in CHECKS:
        raise ValueError(f"unknown check {name!r}; the checks are {', '.join(CHECKS)}")
    known = list(signature(CHECKS[name]).parameters)[1:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(
            f"check {name} has no option {', '.join(unknown)}; its options are: {', '.join(known) or 'none'}"
        )
    return lambda report: CHECKS[name](report, **options)


def _bytes(path: Path) -> int:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _manifest_counts(root: Path, path: str) -> dict[str, float]:
    """Samples of each split that a folder's manifest declares; empty for a folder without one."""
    manifest = root / path / "manifest.json"
    if not manifest.is_file():
        return {}
    splits = json.loads(manifest.read_text()).get("splits", {})
    return {f"samples in {path}, split {split}": part["samples"] for split, part in splits.items()}
