"""Which rendered clips curation keeps and which it rejects, at which stage and why: sound scenes and distractors.

`python libs/more4d/benchmarks/curation.py --scenes 200 --seed 1` renders so many sound scenes, and so many distractors
of each kind, runs the stages source, clips, captions and selection over them in a temporary folder, with the preset's
parameters, and prints a Markdown table. A clip is kept where one of its windows is. `--real` adds the packaged clips and
lists them one by one; `--table datasets/opencv-doc.csv --base .cache/opencv-doc` those that `infra/opencv-doc.sh` put there.
"""

import argparse
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from more4d.data.tables import read_table
from more4d.presets import PRESETS, derive
from more4d.stages.base import VideoSpec, run_stage
from more4d.stages.registry import get_stage

PLACES = {
    "camera": ("clips", "the camera moves"),
    "still": ("clips", "static"),
    "uncountable": ("selection", ("countable no", "self_motion no")),
    "cuts": ("clips", ("cut inside", "too short")),
}
"""Where, and with which words, each kind of distractor should be rejected."""
STAGES = ("source", "clips", "captions", "selection")


def curate(root: Path, options: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """The tables of the stages after a run over what the options ask for."""
    for name in (".cache/packaged", "datasets/packaged.toml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(Path(name).resolve())
    params = derive(PRESETS["tiny"], _changes(options))
    for name in STAGES:
        stage = get_stage(name)
        section = stage.section.model_validate(params[name] | {"max_rejected_share": 1})
        video = VideoSpec.model_validate(params["video"])
        run_stage(stage, params=section, video=video, seed=options.seed, workers=options.workers, root=root)
    files = {"source": "table", "clips": "clips", "captions": "captions", "selection": "selection"}
    return {name: read_table(root / "datasets" / name / f"{file}.parquet") for name, file in files.items()}


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    count = options.scenes
    columns = {"licence": "licence", "attribution": "attribution"}
    base = str(Path(options.base).resolve())
    tables = [{"path": str(Path(path).resolve()), "columns": columns, "base": base} for path in options.table]
    return {
        "source": {
            "rendered_train": count,
            "rendered_val": 0,
            "novel_views": [],
            "distractors": dict.fromkeys(PLACES, count),
            "packaged": None if options.real else [],
            "tables": tables,
        },
        "clips": {"shots": options.shots, "cut_threshold": 0.5 if options.shots == "transnetv2" else 0.3},
    }


def verdicts(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A row a window, or a clip that gave none: videoid, kind, stage ("" where it was kept) and reason."""
    later = {name: tables[name].set_index("clip_id").to_dict("index") for name in ("captions", "selection")}
    rows = [_verdict(row, "source") for row in tables["source"].to_dict("records") if row["verdict"] == "rejected"]
    for row in tables["clips"].to_dict("records"):
        stage, judged = "clips", row
        for name in ("captions", "selection"):
            if judged["verdict"] == "accepted":
                stage, judged = name, later[name][row["clip_id"]]
        rows.append(_verdict(row | {"verdict": judged["verdict"], "reason": judged["reason"]}, stage))
    return pd.DataFrame(rows)


def _verdict(row: dict[str, Any], stage: str) -> dict[str, Any]:
    kind = row["distractor"] or ("sound" if row["origin"] == "rendered" else "real")
    kept = row["verdict"] == "accepted"
    start = row.get("start_frame", 0)
    return {
        "video": row["videoid"],
        "start": start,
        "kind": kind,
        "stage": "" if kept else stage,
        "reason": row["reason"],
    }


def summary(found: pd.DataFrame) -> list[str]:
    """A Markdown table: kind, clips, kept, rejected, and rejected at the right place, as shares of the clips."""
    lines = ["| kind | clips | kept | rejected | at the right place |", "|---|---:|---:|---:|---:|"]
    for kind in ("sound", *PLACES):
        videos = [rows for _, rows in found[found.kind == kind].groupby("video")]
        kept = sum((rows.stage == "").any() for rows in videos)
        right = sum(
            all(_is_right(kind, *pair) for pair in zip(rows.stage, rows.reason, strict=True)) for rows in videos
        )
        shares = [kept / len(videos), 1 - kept / len(videos)]
        place = "" if kind == "sound" else f"{right / len(videos):.1%}"
        lines.append(f"| {kind} | {len(videos)} | {shares[0]:.1%} | {shares[1]:.1%} | {place} |")
    return lines


def _is_right(kind: str, stage: str, reason: str) -> bool:
    wanted, words = PLACES.get(kind, ("", ()))
    return stage == wanted and any(word in reason for word in ((words,) if isinstance(words, str) else words))


def reasons(found: pd.DataFrame) -> list[str]:
    """A Markdown table: how many windows of each kind each stage rejected for what."""
    lines = ["| kind | stage | reason | windows |", "|---|---|---|---:|"]
    for kind in ("sound", *PLACES):
        rows = found[found.kind == kind]
        counts = Counter(
            (stage or "kept", _short(reason)) for stage, reason in zip(rows.stage, rows.reason, strict=True)
        )
        lines += [f"| {kind} | {stage} | {reason} | {count} |" for (stage, reason), count in counts.most_common()]
    return lines


def _short(reason: str) -> str:
    """The reason without what differs from clip to clip."""
    return "; ".join(re.split(r"[:0-9]|, which| only", part)[0].strip() for part in reason.split("; "))


def real(found: pd.DataFrame) -> list[str]:
    """A Markdown table of the real clips' windows, neighbours with the same kind of verdict in one row."""
    lines = ["| clip | windows | verdict |", "|---|---:|---|"]
    for video, rows in found[found.kind == "real"].groupby("video", sort=False):
        kept = int((rows.stage == "").sum())
        lines.append(f"| {video} | {len(rows)} | {kept} kept |")
        rejected = [(stage, reason) for stage, reason in zip(rows.stage, rows.reason, strict=True) if stage]
        alike = Counter((stage, _short(reason)) for stage, reason in rejected)
        first = {(stage, _short(reason)): reason for stage, reason in reversed(rejected)}
        lines += [f"| | {count} | {key[0]}: {first[key]} |" for key, count in alike.items()]
    return lines


def main() -> None:
    """Render, curate, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=200, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--shots", choices=("histogram", "transnetv2"), default="histogram")
    parser.add_argument("--real", action="store_true", help="the packaged clips too")
    parser.add_argument("--table", action="append", default=[], help="a CSV of further clips, like WebVid's")
    parser.add_argument("--base", default=".", help="the folder of the tables' clips")
    parser.add_argument("--windows", type=Path, help="write every window's verdict to this CSV")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tables = curate(Path(folder), options)
    found = verdicts(tables)
    if options.windows:
        scores = tables["clips"].filter(regex="videoid|start_frame|_score|^name")
        found.merge(scores, "left", left_on=["video", "start"], right_on=["videoid", "start_frame"]).to_csv(
            options.windows
        )
    parts = [summary(found), reasons(found)] if options.scenes else []
    parts += [real(found)] if options.real or options.table else []
    print("\n\n".join("\n".join(part) for part in parts))


if __name__ == "__main__":
    main()
