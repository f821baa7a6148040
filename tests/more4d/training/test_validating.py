import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "validating.py"


def run(checkpoint: Path, trajscene: Path, folder: Path, strategy: str, ranks: int) -> list[dict[str, float]]:
    """The history of a training by so many processes."""
    folder.mkdir()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    command = [*launcher, str(SCRIPT), str(checkpoint), str(trajscene), str(folder), strategy]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "history.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3", "fsdp2"])
def test_weights_that_are_cut_among_ranks_are_validated_as_whole_ones(
    checkpoint: Path, trajscene: Path, tmp_path: Path, strategy: str
) -> None:
    whole = run(checkpoint, trajscene, tmp_path / "whole", "single", 1)
    cut = run(checkpoint, trajscene, tmp_path / "cut", strategy, 2)
    assert [row["step"] for row in cut] == [2, 4]
    for one, other in zip(whole, cut, strict=True):
        assert other["validation_trajectory_error"] == pytest.approx(one["validation_trajectory_error"], rel=1e-3)
        assert other["validation_trajectory_ratio_moving"] == pytest.approx(
            one["validation_trajectory_ratio_moving"], rel=1e-3
        )
    videos = sorted(path.relative_to(tmp_path / "cut") for path in (tmp_path / "cut").rglob("*.mp4"))
    assert [path.parent.name for path in videos] == ["step-000002", "step-000004"]
