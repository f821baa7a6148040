"""The table of an ablation study: means and intervals over seeds, and differences from the full model."""

import math
from collections.abc import Mapping, Sequence

import pandas
from scipy import stats

FULL = "full"
"""What every ablation is compared with."""
SHOWN = ("model_moving_error_m", "model_all_error_m", "model_moving_ratio")
"""Measures of the table; lower is better in each."""


def summary(table: pandas.DataFrame) -> pandas.DataFrame:
    """Mean and 95 % interval over seeds of every ablation's measures, and of their differences from the full model's.

    Columns ablation, measure, seeds, mean, low, high, and difference, difference_low, difference_high (seed by seed);
    Student's interval, no number where fewer than two seeds were run.
    """
    full = table[table["ablation"] == FULL].set_index(["measure", "seed"])["value"]
    rows = []
    for key, group in table.groupby(["ablation", "measure"], sort=False):
        name, measure = tuple(key)  # type: ignore[arg-type]
        values = group.set_index("seed")["value"]
        difference = (values - full[measure]).dropna() if measure in full.index else values.iloc[:0]
        mean, low, high = interval(values.tolist())
        change, change_low, change_high = interval(difference.tolist())
        rows.append(
            {"ablation": name, "measure": measure, "seeds": len(values), "mean": mean, "low": low, "high": high}
            | {"difference": change, "difference_low": change_low, "difference_high": change_high}
        )
    return pandas.DataFrame(rows)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and the 95 % interval of the mean by Student's distribution; no number where there is none."""
    if not values:
        return float("nan"), float("nan"), float("nan")
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
    return mean, mean - half, mean + half


def markdown(table: pandas.DataFrame, titles: Mapping[str, str]) -> str:
    """Table 4 over our measures, its rows under their `titles`: mean and 95 % interval over seeds; in bold the best mean."""
    figures = {(row["ablation"], row["measure"]): row for row in summary(table).to_dict("records")}
    names, measures = list(table["ablation"].unique()), [m for m in SHOWN if m in set(table["measure"])]
    best = {m: min(names, key=lambda name: figures[name, m]["mean"]) for m in measures}
    lines = [
        f"Mean over {table['seed'].nunique()} seeds with its 95 % interval (Student's), lower is better.",
        "",
        "| Ablation | " + " | ".join(measures) + " |",
        "|---|" + "---|" * len(measures),
    ]
    for name in names:
        cells = [_cell(figures[name, m], bold=best[m] == name) for m in measures]
        lines.append(f"| {titles[name]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(figure: Mapping[str, float], *, bold: bool) -> str:
    mean = f"**{figure['mean']:.4f}**" if bold else f"{figure['mean']:.4f}"
    return mean if math.isnan(figure["low"]) else f"{mean} [{figure['low']:.4f}, {figure['high']:.4f}]"
