"""Tables of verdicts: every row stays, accepted or rejected with its reason; too many are an error."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from more4d.settings import Section

ACCEPTED = "accepted"
REJECTED = "rejected"
DISTRACTOR_PASSED = "a distractor that no filter refused"
"""The reason of the last stage for a clip that was rendered to be refused."""
_SETTINGS = b"more4d.settings"
_NO_JUDGES = {"max_rejected_share", "commercial_only", "server", "external"}
"""Settings by which no row is judged. They stay out of the table: machines, paths and prices are nothing to hand on, and
where they alone change, the table and everything made from it stay as they are."""


class TooManyRejectsError(ValueError):
    """More rows were rejected than the parameters allow, or nothing is left; the message says why."""


def write_table(path: Path, table: pd.DataFrame, settings: Section | None = None) -> None:
    """Write Parquet without pandas' index; the same rows and settings give the same bytes.

    `settings` are those by which the rows were judged, for `read_settings`.
    """
    metadata = None
    if settings is not None:
        values = settings.model_dump(mode="json", exclude=_NO_JUDGES)
        metadata = {_SETTINGS: json.dumps(values, sort_keys=True).encode()}
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(metadata)
    pq.write_table(arrow, path, compression="zstd")


def read_table(path: Path) -> pd.DataFrame:
    """The rows of a Parquet file."""
    return pq.read_table(path).to_pandas()


def read_settings(path: Path) -> dict[str, Any]:
    """By what the rows of a Parquet file were judged; {} where it does not say. Raises ValueError where it is damaged."""
    text = (pq.read_schema(path).metadata or {}).get(_SETTINGS, b"{}")
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(f"the settings in {path} are not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"the settings in {path} are no table of names and values")
    return values


def read_accepted(path: Path) -> pd.DataFrame:
    """The accepted rows of a stage's table, in order, numbered from 0."""
    return read_table(path).query("verdict == @ACCEPTED").reset_index(drop=True)


def verdict(reasons: list[str]) -> dict[str, str]:
    """The columns verdict and reason of a row: rejected for `reasons`, or accepted for want of any."""
    return {"verdict": REJECTED if reasons else ACCEPTED, "reason": "; ".join(reasons)}


def require_accepted(table: pd.DataFrame, *, stage: str, max_rejected_share: float) -> dict[str, float]:
    """The counts of a stage's verdicts, as metrics: rows, accepted, rejected, rejected_share.

    Raises TooManyRejectsError where the share of rejects is above the limit, or where nothing was accepted.
    """
    rows = len(table)
    rejected = len(_rejected_reasons(table))
    share = rejected / rows if rows else 0.0
    if rejected == rows:
        raise TooManyRejectsError(f"stage {stage}: none of {rows} rows was accepted{_commonest(table)}")
    if share > max_rejected_share:
        raise TooManyRejectsError(
            f"stage {stage}: {rejected} of {rows} rows were rejected, above {stage}.max_rejected_share="
            f"{max_rejected_share}; mend the input or raise the limit in params.yaml{_commonest(table)}"
        )
    return {
        "rows": rows,
        "accepted": rows - rejected,
        "rejected": rejected,
        "rejected_share": round(share, 6),
    }


def _commonest(table: pd.DataFrame) -> str:
    counts = Counter(_rejected_reasons(table)).most_common(5)
    return ". Commonest reasons: " + " | ".join(f"{n} x {reason}" for reason, n in counts) if counts else ""


def _rejected_reasons(table: pd.DataFrame) -> list[str]:
    if not len(table):
        return []
    reasons = table.loc[table["verdict"] == REJECTED, "reason"]
    return [str(reason) for reason in reasons.to_numpy(object)]
