from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from more4d.data.sample import Sample, SampleView
from more4d.data.shards import write_shards
from more4d.data.tensors import write_arrays
from more4d.inference.scene import Scene
from more4d.report.comparisons import collect_comparisons

MakeScene = Callable[..., Scene]


@pytest.fixture(scope="module")
def workspace(make_scene: MakeScene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two held-out samples with predictions (nothing moves); the second with a completed novel view."""
    root, scene = tmp_path_factory.mktemp("workspace"), make_scene()
    view = scene.views["static"]
    side = SampleView(view.video, view.camera_to_world, view.render, view.covered)
    samples = [
        Sample(
            id=f"a-0000{i}", video=view.video, fps=8.0, caption=f"caption {i}", intrinsics=scene.intrinsics,
            depth=scene.depth, points=scene.points, visibility=scene.visibility, render=view.render,
            render_mask=view.covered, split="val", kind="rendered", views={"circle_left": side},
        )
        for i in range(2)
    ]  # fmt: skip
    write_shards(samples, root / "datasets" / "trajscene", split="val", shard_bytes=10**6)
    for i in range(2):
        folder = root / "results" / "samples" / f"a-0000{i}"
        folder.mkdir(parents=True)
        arrays = {"motion": np.zeros(scene.points.shape, np.float16), "depth": scene.depth}
        view_arrays = {"view_circle_left": view.video} if i == 1 else {}
        write_arrays(folder / "prediction.safetensors", arrays | view_arrays, {})
    return root


def test_truth_stands_beside_prediction_and_completed_views_come_first(workspace: Path) -> None:
    second, first = collect_comparisons(workspace)
    assert (second.caption, first.caption) == ("caption 1", "caption 0")
    assert [label for label, _ in first.panels] == ["true tracks", "predicted tracks", "true depth", "predicted depth"]
    assert [label for label, _ in second.panels[4:]] == [
        "circle left, points",
        "circle left, completed",
        "circle left, true",
    ]


def test_the_tracks_shown_are_those_of_the_arrays(workspace: Path) -> None:
    panels = dict(collect_comparisons(workspace)[0].panels)
    assert (panels["true tracks"] != panels["predicted tracks"]).any()


def test_without_predictions_there_is_nothing_to_compare(tmp_path: Path) -> None:
    assert collect_comparisons(tmp_path) == ()
