import json
import shutil
from pathlib import Path

import pytest
from more4d.data.tables import read_table, write_table
from more4d.report.curated.scores import read_limits
from more4d.stages.base import MissingInputError, StageResult, VideoSpec, fingerprint, run_stage
from more4d.stages.clips import ClipsParams
from more4d.stages.data_report import STAGE, DataReportParams
from pydantic import ValidationError

from tests.more4d.report.curated.conftest import SETTINGS, run_tables, write_workspace
from tests.more4d.stages.conftest import QUALITY, Lineage


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workspace(tmp_path_factory.mktemp("made"), run_tables())


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "datasets", tmp_path / "datasets")
    return tmp_path


def run(root: Path, workers: int = 1) -> StageResult:
    video = VideoSpec(frames=5, height=32, width=48, fps=8.0)
    return run_stage(STAGE, params=DataReportParams(gallery=2), video=video, seed=0, workers=workers, root=root)


def test_the_stage_writes_the_page_and_counts(root: Path) -> None:
    metrics = run(root).metrics
    folder = root / "results" / "data"
    assert sorted(path.name for path in folder.iterdir()) == ["images", "index.html", "rejected.csv"]
    assert metrics == {
        "rows": 6, "videos": 5, "windows": 7, "samples": 3, "lost": 0, "sheets": 8, "real_clips_left_out": 0,
        "problems": 0, "warnings": 2,
    }  # fmt: skip
    assert json.loads((root / "results/metrics/data_report.json").read_text()) == metrics
    html = (folder / "index.html").read_text()
    assert "<li><span>seed</span> 0</li>" in html and "at most 0.01" in html


def test_a_rerun_gives_the_same_bytes_with_any_number_of_workers(root: Path) -> None:
    run(root)
    before = fingerprint(root / "results" / "data")
    run(root, workers=2)
    assert fingerprint(root / "results" / "data") == before


def test_limits_are_those_by_which_the_table_was_judged(root: Path) -> None:
    clips, path = SETTINGS["clips"], root / "datasets" / "clips" / "clips.parquet"
    judged_by = ClipsParams.model_validate(clips | {"filters": clips["filters"] | {"min_motion": 0.123}})
    write_table(path, read_table(path), judged_by)
    (root / "params.yaml").write_text("clips: {filters: {min_motion: 0.456}}")
    run(root)
    assert "at least 0.123" in (root / "results/data/index.html").read_text()


def test_the_stages_write_down_the_limits_that_the_page_draws(branch: Lineage) -> None:
    run(branch.root)
    html = (branch.root / "results/data/index.html").read_text()
    for rule in ("at most 0.35", "0.08 to 0.95", "at most 200", "at least 0.1"):
        assert rule in html
    written = read_limits({name: branch.root / path for name, path in STAGE.inputs.items()})
    assert written["trajscene"]["quality"] == QUALITY


def test_a_share_of_rejects_that_is_allowed_changes_no_table(branch: Lineage) -> None:
    before = fingerprint(branch.root / "datasets" / "captions")
    branch.run("captions", max_rejected_share=0.9)
    assert fingerprint(branch.root / "datasets" / "captions") == before
    branch.run("captions", max_characters=199)
    assert fingerprint(branch.root / "datasets" / "captions") != before


@pytest.mark.parametrize("stage", STAGE.inputs)
def test_a_stage_that_has_not_run_is_named(root: Path, stage: str) -> None:
    shutil.rmtree(root / "datasets" / stage)
    with pytest.raises(MissingInputError, match=f"stage data_report: input {stage} is missing"):
        run(root)


def test_a_negative_gallery_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        DataReportParams(gallery=-1)
