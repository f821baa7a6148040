"""Claims about more4d.evaluation.calibration, at a size of seconds; the command measures with many scenes."""

import pytest
from more4d.evaluation.calibration import FLOW, SOUND, Limits, Size, as_markdown, calibrate, read_params
from more4d.labeling.broken import BREAKS

LIMITS = Limits.of_params(read_params("tiny", None))


def test_depth_and_scale_broken_on_purpose_are_caught_by_their_criteria() -> None:
    rows = {row["kind"]: row for row in calibrate(2, 3, Size(7, 64, 96), LIMITS, workers=1)}
    assert list(rows) == [SOUND, FLOW, *BREAKS]
    for kind in BREAKS:
        if BREAKS[kind].criterion in ("anomalous_share", "depth_deviation", "scale_change"):
            assert rows[kind]["caught"][BREAKS[kind].criterion] == 1, kind
    for name in ("anomalous_share", "depth_deviation", "scale_change"):
        assert rows[SOUND]["caught"][name] == 0, name
    table = as_markdown(list(rows.values()), LIMITS)
    assert "| drifting scale | 2 | 0% | 0% | **100%** |" in table and "| scale change | ≤ 0.25 |" in table


def test_what_cannot_be_calibrated_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown preset 'huge'"):
        read_params("huge", None)
    with pytest.raises(ValueError, match="the parameters need trajscene.quality"):
        Limits.of_params({"trajscene": {}})
    with pytest.raises(ValueError, match="scenes=0; from 1 to 10000"):
        calibrate(0, 0, Size(5, 32, 48), LIMITS, workers=1)
