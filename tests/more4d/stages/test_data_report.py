import json
import shutil
from pathlib import Path

import pytest
import yaml
from more4d.presets import TINY
from more4d.stages.base import MissingInputError, StageResult, VideoSpec, fingerprint, run_stage
from more4d.stages.data_report import LIMITS_OF, STAGE, DataReportParams
from pydantic import ValidationError

from tests.more4d.report.curated.conftest import run_tables, write_workspace


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workspace(tmp_path_factory.mktemp("made"), run_tables())


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "datasets", tmp_path / "datasets")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(TINY))
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
    assert "<li><span>preset</span> tiny</li>" in html and "at most 0.01" in html


def test_a_rerun_gives_the_same_bytes_with_any_number_of_workers(root: Path) -> None:
    run(root)
    before = fingerprint(root / "results" / "data")
    run(root, workers=2)
    assert fingerprint(root / "results" / "data") == before


def test_limits_are_those_of_params_yaml(root: Path) -> None:
    changed = TINY | {"clips": TINY["clips"] | {"filters": TINY["clips"]["filters"] | {"min_motion": 0.123}}}
    (root / "params.yaml").write_text(yaml.safe_dump(changed))
    run(root)
    assert "at least 0.123" in (root / "results/data/index.html").read_text()


@pytest.mark.parametrize("stage", STAGE.inputs)
def test_a_stage_that_has_not_run_is_named(root: Path, stage: str) -> None:
    shutil.rmtree(root / "datasets" / stage)
    with pytest.raises(MissingInputError, match=f"stage data_report: input {stage} is missing"):
        run(root)


def test_missing_or_wrong_parameters_are_refused_by_name(root: Path) -> None:
    (root / "params.yaml").write_text(yaml.safe_dump({name: TINY[name] for name in ("clips", "captions", "trajscene")}))
    with pytest.raises(ValueError, match=r"params\.yaml has no valid section tracks"):
        run(root)
    (root / "params.yaml").unlink()
    with pytest.raises(ValueError, match=r"params\.yaml is missing; write it from a preset"):
        run(root)


def test_dvc_is_told_every_section_that_the_page_states() -> None:
    assert STAGE.other_params == ("preset", *LIMITS_OF)


def test_a_negative_gallery_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        DataReportParams(gallery=-1)
