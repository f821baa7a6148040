"""Claims about more4d.evaluation.labelers."""

import json
from pathlib import Path

import numpy as np
import pytest
from more4d.evaluation import labelers
from more4d.evaluation.held_out import Size
from more4d.evaluation.labelers import Labelers, measure_scene, read_flow_params, summarise
from more4d.training.base_scenes import held_out_seeds

ROOT = Path(__file__).parents[3]
SIZE = ["--height", "32", "--width", "48", "--frames", "4"]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, fox_file: Path) -> list[str]:
    """The command's arguments for two small scenes, in the workspace; the stereo pairs have tests of their own."""
    monkeypatch.setattr(labelers, "stereo_figures", lambda *_: dict.fromkeys(_STEREO, 0.5))
    monkeypatch.setattr(labelers, "load_checkpoint", lambda _: None)
    return ["labelers", "--scenes", "2", "--seed", "3", "--workers", "1", *SIZE]


_STEREO = ("stereo_motorcycle_error", "stereo_motorcycle_plane_error", "stereo_motorcycle_correlation")


def test_the_truth_scores_one_and_what_does_not_move_misses_what_does(fox_file: Path) -> None:
    flow = read_flow_params(Path("params.yaml"))
    setup = Labelers(Size(4, 32, 48, 8.0), Path("models/tiny-base"), flow)
    tracks, depth = measure_scene(setup, held_out_seeds(3, 1)[0])
    truth, still = tracks["truth"], tracks["nothing moves"]
    errors = {"epe", "moving_epe"}
    assert all(value == (0 if name in errors else 1) for name, value in truth.items())
    assert still["moving_tracked"] < 0.5 < still["apd"]
    exact, own = tracks["flow, exact depth"], tracks["flow, own depth"]
    assert exact["moving_epe"] == pytest.approx(own["moving_epe"], rel=1e-4)
    assert exact["moving_epe"] < still["moving_epe"]
    assert exact["apd"] > own["apd"]
    assert depth["own network"]["log_error"] < depth["best constant plane"]["log_error"]


def test_the_same_seed_prints_the_same_tables_and_another_seed_others(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = []
    for extra in (["--json", str(tmp_path / "a.json")], [], ["--seed", "4"]):
        monkeypatch.setattr("sys.argv", [*command, *extra])
        labelers.main()
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2]
    assert "Real clips are not measured" in printed[0]
    figures = json.loads((tmp_path / "a.json").read_text())
    aj = figures["tracks"]["flow, exact depth"]["aj"]
    assert aj["low"] <= aj["value"] <= aj["high"]
    assert f"{aj['value']:.3f} ({aj['low']:.3f}–{aj['high']:.3f})" in printed[0]
    assert (figures["scenes"], figures["seed"], figures["height"]) == (2, 3, 32)


def test_scenes_where_nothing_could_be_measured_are_left_out_of_the_mean() -> None:
    rows = [{"flow": {"aj": value}} for value in (0.2, np.nan, 0.6)]
    assert summarise(rows)["flow"]["aj"].value == pytest.approx(0.4)
    assert np.isnan(summarise(rows[1:2])["flow"]["aj"].value)


@pytest.mark.parametrize(
    ("text", "said"),
    [("tracks: {}", "no section tracks.flow"), ("tracks: {flow: {gaps: []}}", "gaps"), ("", "tracks.flow")],
)
def test_parameters_without_a_flow_tracker_are_one_line_and_exit_code_2(
    text: str, said: str, command: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.setattr("sys.argv", [*command, "--params", str(tmp_path / "params.yaml")])
    with pytest.raises(SystemExit) as stop:
        labelers.main()
    captured = capsys.readouterr()
    assert (stop.value.code, captured.out) == (2, "")
    assert len(captured.err.splitlines()) == 1 and said in captured.err
