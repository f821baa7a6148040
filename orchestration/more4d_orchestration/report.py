"""What Dagster shows of a stage: its metrics, outputs, pictures and reasons of rejection, read from the workspace."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from more4d_orchestration.manifest import Out, StageNode
from more4d_orchestration.previews import as_markdown, contact_sheet, curve, find_pictures
from more4d_orchestration.workspace import LockEntry

MAX_REASONS = 20


@dataclass(frozen=True)
class StageReport:
    """A stage whose outputs are in the workspace, and what dvc.lock says of them."""

    root: Path
    node: StageNode
    entry: LockEntry

    def metrics(self) -> dict[str, float]:
        """Numbers of the stage's metrics files, nested keys joined by dots."""
        numbers: dict[str, float] = {}
        for path in self.node.paths("metric"):
            numbers |= _flatten(json.loads((self.root / path).read_text()))
        return numbers

    def plots(self) -> list[tuple[Out, pd.DataFrame]]:
        """The stage's CSV plots that name their columns, with their tables."""
        named = [out for out in self.node.outs if out.kind == "plot" and out.x and out.y and out.path.endswith(".csv")]
        return [(out, pd.read_csv(self.root / out.path)) for out in named]

    def tables(self) -> dict[str, pd.DataFrame]:
        """The Parquet tables among the stage's data, by path relative to the workspace."""
        files = [
            file for path in self.node.paths("data") for file in _files(self.root / path) if file.suffix == ".parquet"
        ]
        return {file.relative_to(self.root).as_posix(): pd.read_parquet(file) for file in files}

    def parameter(self, name: str, default: object) -> Any:  # noqa: ANN401  (whatever the YAML held)
        """A value of the parameter section that is called like the stage, as recorded in dvc.lock."""
        sections = [values.get(self.node.name) for values in self.entry.recipe.params.values()]
        found = [section[name] for section in sections if isinstance(section, Mapping) and name in section]
        return found[0] if found else default

    def rejections(self) -> dict[str, int]:
        """Reason -> rows that a stage rejected for it, most frequent first, over the tables with verdicts."""
        counts: Counter[str] = Counter()
        for table in self.tables().values():
            rows = zip(verdicts(table), table["reason"].tolist(), strict=True) if "reason" in table.columns else []
            counts.update(str(reason) for verdict, reason in rows if verdict == "rejected")
        return dict(counts.most_common())

    def metadata(self) -> dict[str, dg.MetadataValue]:
        """Everything above in Dagster's types. A file that the workspace lacks is left out, as after `git checkout`."""
        values: dict[str, dg.MetadataValue] = {"outputs": _outputs(self.entry)} if self.entry.outs else {}
        if all((self.root / out.path).exists() for out in self.node.outs):
            values |= {f"metric/{name}": dg.MetadataValue.float(value) for name, value in self.metrics().items()}
            values |= self._rejected() | self._pictures()
        return values

    def _rejected(self) -> dict[str, dg.MetadataValue]:
        counts = self.rejections()
        if not counts:
            return {}
        shown = list(counts.items())[:MAX_REASONS]
        rest = sum(counts.values()) - sum(rows for _, rows in shown)
        shown += [(f"{len(counts) - MAX_REASONS} other reasons", rest)] if rest else []
        records = [dg.TableRecord({"reason": reason, "rows": rows}) for reason, rows in shown]
        return {"rejected": dg.MetadataValue.table(records)}

    def _pictures(self) -> dict[str, dg.MetadataValue]:
        values: dict[str, dg.MetadataValue] = {}
        for path in self.node.paths("data"):
            files = find_pictures(self.root / path)
            if files:
                caption = f"{len(files)} in {path}"
                values[f"preview/{path}"] = dg.MetadataValue.md(as_markdown(contact_sheet(files), caption))
        for out, table in self.plots():
            picture = curve(table, str(out.x), str(out.y))
            values[f"curve/{out.path}"] = dg.MetadataValue.md(as_markdown(picture, f"{out.y} over {out.x}"))
        return values


def verdicts(table: pd.DataFrame) -> list[str]:
    """The column `verdict`; empty for a table without one."""
    return [str(value) for value in table["verdict"].tolist()] if "verdict" in table.columns else []


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    numbers: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            numbers |= _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            numbers[f"{prefix}{key}"] = float(value)
    return numbers


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _outputs(entry: LockEntry) -> dg.MetadataValue:
    records = [
        dg.TableRecord({"path": out.path, "bytes": out.size, "files": out.files, "md5": out.md5})
        for out in entry.outs.values()
    ]
    return dg.MetadataValue.table(records)
