import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas
import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, register_tracker_class
from more4d.data.video import write_video
from more4d.training.watch.dvclive_log import cut
from more4d.training.watch.trackers import Trackers, flattened, progress_line, require_trackers
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

CONFIG = {"train": {"steps": 30, "optimizer": "adamw", "betas": (0.9, 0.99)}, "seed": 0}
BOTH = ("tensorboard", "dvclive")


def write(folder: Path, steps: range, *, done: int = 0, end: bool = True, names: tuple[str, ...] = BOTH) -> Trackers:
    """Logs of some steps; without an end as a killed process leaves them."""
    trackers = Trackers(names, folder, CONFIG, "strag", step=done)
    for step in steps:
        trackers.log({"step": step, "train/loss": 1 / step, "speed/samples": cast(float, np.float32(step))}, step)
    if end:
        trackers.close()
    return trackers


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / "tensorboard" / "strag"), size_guidance={"scalars": 0, "images": 0})
    return found.Reload()


def rows(folder: Path, name: str) -> list[tuple[int, float]]:
    table = pandas.read_csv(folder / "dvclive" / "plots" / "metrics" / f"{name}.tsv", sep="\t")
    return list(zip(table["step"].tolist(), table[Path(name).name].tolist(), strict=True))


def test_tensorboard_and_dvclive_hold_the_same_numbers(tmp_path: Path) -> None:
    write(tmp_path, range(10, 40, 10))
    expected = [(10, 0.1), (20, 0.05), (30, 1 / 30)]
    assert rows(tmp_path, "train/loss") == expected
    scalars = events(tmp_path).Scalars("train/loss")
    assert [(event.step, event.value) for event in scalars] == [(s, pytest.approx(v, rel=1e-6)) for s, v in expected]
    latest = json.loads((tmp_path / "dvclive" / "metrics.json").read_text())
    assert latest == {"train": {"loss": 1 / 30}, "speed": {"samples": 30.0}, "step": 30}
    assert "train.steps: 30" in (tmp_path / "dvclive" / "params.yaml").read_text()
    assert b"train.steps | 30" in events(tmp_path).Tensors("config/text_summary")[0].tensor_proto.string_val[0]


@pytest.mark.parametrize("end", [True, False])
def test_a_resumed_run_has_each_step_once(tmp_path: Path, end: bool) -> None:
    write(tmp_path, range(10, 60, 10), end=end)
    # The checkpoint was of step 20, so that 30 to 50 are run again.
    write(tmp_path, range(30, 80, 10), done=20)
    expected = [(step, pytest.approx(1 / step)) for step in range(10, 80, 10)]
    assert rows(tmp_path, "train/loss") == expected
    scalars = events(tmp_path).Scalars("train/loss")
    assert [(event.step, event.value) for event in scalars] == expected


def test_a_resumed_run_shows_the_latest_numbers_before_it_logs_any(tmp_path: Path) -> None:
    write(tmp_path, range(10, 60, 10))
    write(tmp_path, range(0), done=20, names=("dvclive",))
    latest = json.loads((tmp_path / "dvclive" / "metrics.json").read_text())
    assert latest["train"]["loss"] == 0.05


def test_a_new_run_in_an_old_folder_starts_with_nothing(tmp_path: Path) -> None:
    write(tmp_path, range(10, 60, 10))
    write(tmp_path, range(5, 10, 5))
    assert rows(tmp_path, "train/loss") == [(5, 0.2)]
    assert [event.step for event in events(tmp_path).Scalars("train/loss")] == [5]


def test_what_a_killed_process_left_half_written_is_cut(tmp_path: Path) -> None:
    write(tmp_path, range(10, 40, 10))
    folder = tmp_path / "dvclive"
    with (folder / "plots" / "metrics" / "train" / "loss.tsv").open("a") as file:
        file.write("40\t0.0")
    (folder / "plots" / "metrics" / "train" / "new.tsv").write_text("st")
    (folder / "plots" / "metrics" / "train" / "empty.tsv").write_text("")
    (folder / "metrics.json").write_text('{"train": {"lo')
    assert cut(folder, 100) == {"speed/samples": 30.0, "train/loss": 1 / 30}
    assert sorted(path.name for path in folder.rglob("*.tsv")) == ["loss.tsv", "samples.tsv"]
    write(tmp_path, range(40, 50, 10), done=30)
    assert [step for step, _ in rows(tmp_path, "train/loss")] == [10, 20, 30, 40]


def test_numbers_that_are_none_are_logged_too(tmp_path: Path) -> None:
    trackers = Trackers(BOTH, tmp_path, {}, "strag")
    trackers.log({"error": math.nan}, 1)
    trackers.close()
    assert math.isnan(rows(tmp_path, "error")[0][1])
    assert math.isnan(events(tmp_path).Scalars("error")[0].value)
    assert math.isnan(cut(tmp_path / "dvclive", 1)["error"])


def test_dvclive_leaves_the_repository_that_it_runs_in_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One without a commit, in which DVCLive by itself fails, having made a .dvc.
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "logs", range(10, 40, 10), names=("dvclive",))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".git", "logs"]
    assert [step for step, _ in rows(tmp_path / "logs", "train/loss")] == [10, 20, 30]


def test_dvc_plots_shows_what_dvclive_wrote(tmp_path: Path) -> None:
    write(tmp_path / "logs", range(10, 40, 10), names=("dvclive",))
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "dvc.yaml").write_text("plots:\n  - logs/dvclive/plots/metrics:\n      x: step\n")
    shown = subprocess.run([*dvc, "plots", "show", "--json"], cwd=tmp_path, check=True, capture_output=True, text=True)
    data = json.loads(shown.stdout)["data"]
    name = next(name for name in data if name.endswith("loss.tsv"))
    points = data[name][0]["content"]["data"]["values"]
    found = [(int(point["step"]), float(point["loss"])) for point in points]
    assert found == [(10, 0.1), (20, 0.05), (30, 1 / 30)]


def test_videos_play_in_tensorboard_and_are_strips_of_frames_elsewhere(tmp_path: Path) -> None:
    frames = np.zeros((5, 16, 24, 3), np.uint8)
    frames[:, :, :8] = np.array([20, 60, 100, 140, 180], np.uint8)[:, None, None, None]
    write_video(tmp_path / "a.mp4", frames, 8.0)
    trackers = Trackers(BOTH, tmp_path, {}, "strag")
    trackers.videos({"val/a": tmp_path / "a.mp4"}, 7)
    trackers.images({"val/b": frames[0]}, 7)
    trackers.close()
    found = events(tmp_path)
    played = found.Images("val/a")[0]
    assert (played.step, played.width, played.height) == (7, 24, 16)
    (tmp_path / "a.gif").write_bytes(played.encoded_image_string)
    with Image.open(tmp_path / "a.gif") as gif:
        assert getattr(gif, "n_frames", 1) == 5
    assert found.Images("val/b")[0].step == 7
    strip = np.asarray(Image.open(tmp_path / "dvclive" / "plots" / "images" / "val" / "a" / "7.png"))
    assert strip.shape == (16, 72, 3)
    assert [int(strip[8, x, 0]) for x in (4, 28, 52)] == pytest.approx([20, 100, 180], abs=4)
    cut(tmp_path / "dvclive", 6)
    assert not list((tmp_path / "dvclive").rglob("*.png"))


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    trackers = Trackers(BOTH, tmp_path / "logs", CONFIG, "strag", rank=1)
    trackers.log({"loss": 1.0}, 1)
    trackers.videos({"a": tmp_path / "not there.mp4"}, 1)
    trackers.close()
    assert not list(tmp_path.iterdir())


def test_a_tracker_that_is_not_there_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"unknown tracker 'tensorbord'; there are aim, clearml, .*tensorboard"):
        require_trackers(["tensorbord"])
    with pytest.raises(ValueError, match="'comet_ml' is not installed; `pip install comet-ml`, or take one of"):
        require_trackers(["comet_ml"])


def test_any_tracker_that_accelerate_knows_gets_name_options_config_and_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Recorder(GeneralTracker):
        name = "recorder"
        requires_logging_directory = True
        tracker = None

        def __init__(self, run_name: str, logging_dir: Path, **options: Any) -> None:
            super().__init__()
            seen.append((run_name, logging_dir, options))

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            seen.append(values)

        def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
            seen.append((values, step))

        def finish(self) -> None:
            seen.append("finished")

    monkeypatch.setattr("accelerate.tracking.LOGGER_TYPE_TO_CLASS", dict(LOGGER_TYPE_TO_CLASS))
    register_tracker_class(Recorder)
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "recorder", Recorder)
    options = {"recorder": {"id": "run-1"}}
    for step in (0, 5):
        trackers = Trackers(["recorder"], tmp_path, {"a": {"b": 1}}, "strag", step=step, options=options)
        trackers.log({"loss": 1.0}, step + 1)
        trackers.close()
    opened = ("strag", tmp_path, {"id": "run-1"})
    first = [opened, {"a.b": 1}, ({"loss": 1.0}, 1), "finished"]
    assert seen == [*first, opened, ({"loss": 1.0}, 6), "finished"]


def test_settings_are_flattened_to_what_trackers_take() -> None:
    assert flattened(CONFIG) == {
        "train.steps": 30, "train.optimizer": "adamw", "train.betas": "(0.9, 0.99)", "seed": 0,
    }  # fmt: skip


def test_the_progress_line_says_what_is_known() -> None:
    values = {"loss": 0.123456, "learning_rate": 1e-4, "samples_per_second": 12.34, "data_wait_share": 0.025}
    assert progress_line(values) == "loss 0.1235, lr 0.0001, 12.3 samples/s, wait 2.5%"
    assert progress_line({"mfu": 0.33}) == "MFU 33.0%"


def test_naming_no_tracker_imports_neither_dvc_nor_tensorboard() -> None:
    script = (
        "import sys, tempfile, pathlib\n"
        "from more4d.training.watch.trackers import Trackers\n"
        "Trackers((), pathlib.Path(tempfile.mkdtemp()), {}, 'strag').close()\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('dvc', 'dvclive', 'tensorboard')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
