import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from more4d.data.tables import write_table
from more4d.inference.scene import Scene, write_scene
from more4d.report.collect import collect
from more4d.report.model import Acknowledgement, StageTime
from more4d.report.viewer import scene_page

MakeScene = Callable[..., Scene]


@pytest.fixture(scope="module")
def workspace(make_scene: MakeScene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("workspace")
    (root / "params.yaml").write_text("preset: tiny\nseed: 5\n")
    for name in ("zebra", "flower", "cat"):
        scene = make_scene(name=name)
        write_scene(replace(scene, views={}), root / "results" / "scenes" / name, page=scene_page)
    for folder in ("results/plots", "results/timings", "datasets/source"):
        (root / folder).mkdir(parents=True)
    (root / "results/plots/strag.csv").write_text("step,loss,moving\n10,0.5,\n20,0.25,0.125\n")
    for stage, seconds in (("strag", 12.5), ("clips", 2.0), ("base_strag", 900)):
        (root / f"results/timings/{stage}.json").write_text(json.dumps({"seconds": seconds}))
    row = {"verdict": "accepted", "licence": "CC-BY-4.0", "attribution": "somebody"}
    rows = [row | {"videoid": f"r-{i}", "origin": "rendered"} for i in range(3)] + [
        row | {"videoid": "bikes", "origin": "real"}
    ]
    write_table(root / "datasets/source/table.parquet", pd.DataFrame(rows))
    return root


def test_everything_in_a_workspace_is_found(workspace: Path) -> None:
    data = collect(workspace)
    assert data.problems == ()
    assert (data.run.preset, data.run.seed) == ("tiny", "5")
    assert [scene.name for scene in data.scenes] == ["flower", "cat", "zebra"]
    assert [(curve.title, sorted(curve.series)) for curve in data.curves] == [("4D-STraG", ["loss", "moving"])]
    assert data.times == (StageTime("clips", 2.0), StageTime("strag", 12.5))


def test_the_page_of_the_curated_data_is_named_where_there_is_one(tmp_path: Path) -> None:
    assert collect(tmp_path).data_report == ""
    (tmp_path / "results" / "data").mkdir(parents=True)
    (tmp_path / "results" / "data" / "index.html").write_text("<p>data")
    data = collect(tmp_path)
    assert (tmp_path / "results" / data.data_report).read_text() == "<p>data"


def test_every_maker_is_named_once(workspace: Path) -> None:
    assert collect(workspace).acknowledgements == (
        Acknowledgement("a test", "nobody", "CC0-1.0"),
        Acknowledgement("Rendered scenes", "somebody", "CC-BY-4.0"),
        Acknowledgement("bikes", "somebody", "CC-BY-4.0"),
    )


def test_what_cannot_be_read_is_named_and_the_rest_still_shown(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "results/evaluation").mkdir(parents=True)
    (tmp_path / "results/evaluation/evaluation.json").write_text("{")
    (tmp_path / "results/timings").mkdir()
    (tmp_path / "results/timings/clips.json").write_text('{"seconds": 3}')
    data = collect(tmp_path)
    assert len(data.problems) == 1 and data.problems[0].startswith("tables could not be read: Expecting")
    assert data.times == (StageTime("clips", 3.0),)


def test_a_changed_scene_file_is_a_problem_not_a_picture(make_scene: MakeScene, tmp_path: Path) -> None:
    scenes = tmp_path / "results" / "scenes"
    for name in ("cat", "dog"):
        write_scene(replace(make_scene(name=name), views={}), scenes / name)
    (scenes / "cat" / "depth.png").write_bytes(b"something else")
    data = collect(tmp_path)
    assert [scene.name for scene in data.scenes] == ["dog"]
    assert len(data.problems) == 1 and "cat/depth.png" in data.problems[0]


def test_the_command_writes_the_page_and_prints_its_path(workspace: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "more4d.report", "--root", str(workspace)], capture_output=True, text=True, check=True
    )
    page = workspace / "results" / "index.html"
    assert done.stdout == f"{page.resolve()}\n"
    html = page.read_text()
    assert html.count('<article class="scene"') == 3 and "somebody" in html
    assert [path.name for path in page.parent.glob("*index*")] == ["index.html"]


def test_a_missing_workspace_is_one_clear_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "more4d.report", "--root", str(tmp_path / "nowhere")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"more4d.report: --root {tmp_path}/nowhere is not a folder"]
