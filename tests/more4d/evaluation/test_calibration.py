"""Claims about more4d.evaluation.calibration, at a size of seconds; the command measures with many scenes."""

import pytest
from more4d.evaluation.calibration import FLOW, SOUND, Limits, Size, as_markdown, calibrate, read_params
from more4d.labeling.broken import BREAKS

SCENES = 12
LIMITS = Limits.of_params(read_params("tiny", None))


def test_what_is_broken_on_purpose_is_caught_by_its_criterion_and_what_is_sound_is_kept() -> None:
    rows = {row["kind"]: row for row in calibrate(SCENES, 3, Size(13, 64, 96), LIMITS, workers=2)}
    assert list(rows) == [SOUND, FLOW, *BREAKS]
    # One of so few may be missed; the command counts more.
    for kind, how in BREAKS.items():
        assert rows[kind]["caught"][how.criterion] >= 1 - 1 / SCENES, kind
    assert rows[SOUND]["caught"]["any"] == 0
    table = as_markdown(list(rows.values()), LIMITS)
    assert f"| drifting scale | {SCENES} | 0% | 0% | **100%** |" in table and "| scale change | ≤ 0.33 |" in table


def test_what_cannot_be_calibrated_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown preset 'huge'"):
        read_params("huge", None)
    with pytest.raises(ValueError, match="the parameters need trajscene.quality"):
        Limits.of_params({"trajscene": {}})
    with pytest.raises(ValueError, match="scenes=0; from 1 to 10000"):
        calibrate(0, 0, Size(5, 32, 48), LIMITS, workers=1)
