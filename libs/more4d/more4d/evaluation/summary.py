"""From one row of sums a scene to the figures of a table: pooled ratios and PSNRs with bootstrap intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from more4d.evaluation.pooling import Interval, bootstrap, pooled_ratio, ratio_interval
from more4d.evaluation.trajectories import REGIONS
from more4d.evaluation.views import psnr, psnr_interval

METHODS = ("model", "mean_motion", "caption_lookup", "vae")
"""What trajectories may come from; "vae" is the truth through encoder and decoder."""

Row = dict[str, Any]


def summarise_trajectories(rows: Sequence[Row]) -> dict[str, float]:
    """`<method>_<region>_ratio` with `_low` and `_high`, the mean error in metres, and how many scenes counted.

    Pooled: the errors of eq. 7 summed over all pixels of all scenes, over the same sum for "nothing moves". Intervals are
    95 % percentiles over resampled scenes, the same resamples for every method.
    """
    table = pd.DataFrame(rows)
    figures: dict[str, float] = {"scenes": len(table)}
    for method in METHODS:
        for region in REGIONS:
            column = f"{method}_{region}_error"
            if column in table:
                errors, static = table[column].to_numpy(float), table[f"{region}_static"].to_numpy(float)
                figures |= _with_interval(f"{method}_{region}_ratio", ratio_interval(errors, static))
    for region in REGIONS:
        counts = table[f"{region}_count"].to_numpy(float)
        figures[f"model_{region}_error_m"] = pooled_ratio(table[f"model_{region}_error"].to_numpy(float), counts)
        figures[f"static_{region}_error_m"] = pooled_ratio(table[f"{region}_static"].to_numpy(float), counts)
    return figures


def summarise_views(rows: Sequence[Row]) -> dict[str, float]:
    """PSNR in dB of completed novel views and of Telea's inpainting, in holes and overall, pooled over views' pixels.

    `hole_psnr_gain_low` and `_high` bound the gain inside holes over resampled views. Empty without views.
    """
    table = pd.DataFrame(rows)
    if table.empty:
        return {}
    figures: dict[str, float] = {"views": len(table)}
    for region in ("view", "hole"):
        values = table[f"{region}_values"].to_numpy(float)
        for label, column in (("psnr", "squared_error"), ("telea_psnr", "telea_squared_error")):
            errors = table[f"{region}_{column}"].to_numpy(float)
            figures |= _with_interval(f"{region}_{label}", psnr_interval(errors, values))
    gain = _gain_interval(table)
    return figures | _with_interval("hole_psnr_gain", gain)


def summarise_depth(rows: Sequence[Row]) -> dict[str, float]:
    """Mean errors of first-frame depth, and how many times smaller the log error is than the best constant plane's."""
    table = pd.DataFrame(rows)
    if table.empty:
        return {}
    pixels = table["depth_pixels"].to_numpy(float)
    names = ("depth_log_error", "depth_scaled_log_error", "depth_plane_log_error", "depth_relative_error")
    figures = {name: pooled_ratio(table[name].to_numpy(float), pixels) for name in names}
    plane = table["depth_plane_log_error"].to_numpy(float)
    return figures | _with_interval(
        "depth_plane_ratio", ratio_interval(plane, table["depth_log_error"].to_numpy(float))
    )


def rounded(figures: dict[str, float], digits: int = 6) -> dict[str, float]:
    """The same figures with so many decimals: enough to compare, few enough to read."""
    return {name: value if isinstance(value, int) else round(float(value), digits) for name, value in figures.items()}


def _with_interval(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _gain_interval(table: pd.DataFrame) -> Interval:
    columns = ["hole_squared_error", "hole_telea_squared_error", "hole_values"]
    return bootstrap(table[columns].to_numpy(float), _gain)


def _gain(values: np.ndarray) -> float:
    ours, classic, count = values.sum(0)
    return psnr(ours, count) - psnr(classic, count)
