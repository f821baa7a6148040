import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from more4d.data.tensors import read_arrays
from more4d.evaluation import tiny
from more4d.evaluation.baselines import gather_statistics
from more4d.evaluation.held_out import clip_of
from more4d.evaluation.trajectories import Truth, error_sum
from more4d.models.bundle import Models
from more4d.scenes import RenderedScene


@pytest.fixture
def scenes(rendered: list[RenderedScene]) -> list[RenderedScene]:
    """The made-up scenes with captions whose directions can be swapped."""
    return [dataclasses.replace(s, caption=f"a box slides to the {s.direction}") for s in rendered]


def test_the_figures_can_be_recomputed_from_what_is_written(
    models: Models, scenes: list[RenderedScene], tmp_path: Path
) -> None:
    statistics = gather_statistics(clip_of(scene) for scene in scenes)
    report = tiny.summarise(tiny.evaluate(models, scenes, statistics, folder=tmp_path), {})
    sums = np.zeros(2)
    for path in sorted(tmp_path.glob("scene-*.safetensors")):
        arrays, facts = read_arrays(path)
        assert facts["caption"].startswith("a box slides")
        truth = Truth(arrays["true_points"], arrays["visibility"].astype(bool))
        still = np.broadcast_to(truth.points[0], truth.points.shape)
        sums += [error_sum(points, truth, truth.moving)[0] for points in (arrays["predicted_points"], still)]
    assert report["moving_ratio"] == pytest.approx(sums[0] / sums[1], abs=1e-6)
    low, high = report["moving_ratio_interval"]
    assert low <= report["moving_ratio"] <= high
    assert report["baselines"]["nothing_moves"] == {"moving": 1.0, "all": 1.0}
    assert report["baselines"]["caption_lookup"]["moving"] < 1e-3
    assert report["caption_swap"]["of"] == report["scenes"] == 3
    assert report["views"]["views"] == 1


def test_one_json_line_comes_out_and_files_where_asked(
    models: Models,
    scenes: list[RenderedScene],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tiny, "load_checkpoint", lambda _: models)
    monkeypatch.setattr(tiny, "held_out_scenes", lambda *_, **__: iter(scenes))
    monkeypatch.setattr(tiny, "training_clips", lambda *_, **__: iter([clip_of(s) for s in scenes]))
    files = ["--out", str(tmp_path / "out"), "--write-metrics", str(tmp_path / "metrics.json")]
    monkeypatch.setattr("sys.argv", ["tiny", "--seed", "3", "--scenes", "3", *files])
    tiny.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    report = json.loads(lines[0])
    assert report == json.loads((tmp_path / "metrics.json").read_text())
    assert {"moving_ratio", "all_ratio", "baselines", "depth", "views", "scenes", "seconds", "seed"} <= set(report)
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_a_missing_checkpoint_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tiny", "--seed", "1", "--checkpoint", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as stop:
        tiny.main()
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1 and "make tiny-base" in captured.err
