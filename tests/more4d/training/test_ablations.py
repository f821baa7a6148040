import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
import yaml
from more4d.data.sample import Sample
from more4d.data.shards import TrajSceneDataset, write_shards
from more4d.models.bundle import Models
from more4d.presets import SMOKE, derive
from more4d.training import ablations
from more4d.training.ablation_data import (
    LABEL_NOISE,
    changed_dataset,
    everything,
    largest_displacement,
    min_max_units,
    noisy_labels,
    subset,
    with_noise,
)
from more4d.training.ablation_table import interval, markdown, summary
from more4d.training.ablations import ABLATIONS, TITLES, AblationError, Plan, run_ablations
from more4d.training.latents import motion_batch

SMALL = derive(SMOKE, {"video": {"frames": 5, "height": 32, "width": 48}})


@pytest.fixture
def many(samples: list[Sample], tmp_path: Path) -> Path:
    """Three samples of train and one of val."""
    folder = tmp_path / "many"
    write_shards(samples, folder, split="train", shard_bytes=10**6)
    write_shards([dataclasses.replace(samples[0], id="held-out", split="val")], folder, split="val", shard_bytes=10**6)
    return folder


def changed(many: Path, change: Any, seed: int = 0) -> Path:
    """The dataset after a change."""
    folder = many.parent / f"{change.__name__}-{seed}"
    changed_dataset(many, many, change, folder, seed)
    return folder


def test_a_subset_is_the_seeds_and_what_is_held_out_stays(many: Path) -> None:
    chosen = {tuple(TrajSceneDataset(changed(many, subset, seed), "train").ids) for seed in range(5)}
    assert len(chosen) > 1 and {len(ids) for ids in chosen} == {2}
    kept, before = (TrajSceneDataset(folder, "val") for folder in (many.parent / "subset-0", many))
    assert kept.ids == before.ids == ["held-out"] and kept.read_files(0) == before.read_files(0)
    again = many.parent / "again"
    changed_dataset(many, many, subset, again, 0)
    assert TrajSceneDataset(again, "train").ids == TrajSceneDataset(many.parent / "subset-0", "train").ids


def test_everything_is_taken_as_it_is(many: Path) -> None:
    found, before = (TrajSceneDataset(folder, "train") for folder in (changed(many, everything), many))
    assert found.ids == before.ids
    assert all(found.read_files(i) == before.read_files(i) for i in range(len(before)))


def test_noise_is_a_share_of_the_depth_and_spares_the_first_frame_and_the_video(
    many: Path, samples: list[Sample]
) -> None:
    noisy = with_noise(samples[0], 0)
    moved = (noisy.points - samples[0].points) / samples[0].depth[None, :, :, None]
    assert not moved[0].any()
    assert float(moved[1:].std()) == pytest.approx(LABEL_NOISE, rel=0.05)
    assert np.array_equal(with_noise(samples[0], 0).points, noisy.points)
    assert not np.array_equal(with_noise(samples[0], 1).points, noisy.points)
    found, before = (TrajSceneDataset(folder, "train") for folder in (changed(many, noisy_labels), many))
    assert found.ids == before.ids
    assert found.read_files(0)["video.mp4"] == before.read_files(0)["video.mp4"]
    assert not np.array_equal(found[0].points, before[0].points)
    assert np.array_equal(found[0].depth, before[0].depth)


def test_without_depth_normalisation_motion_is_metres_over_their_range(
    models: Models, many: Path, samples: list[Sample]
) -> None:
    found = min_max_units(models.config, models.vae, many).motion_vae
    furthest = largest_displacement(samples)
    assert found.motion_camera == pytest.approx([max(0.25, metres) for metres in furthest], rel=0.02)
    motion = motion_batch(samples, found.motion_camera)
    assert float((motion["motion"].abs() * motion["visible"][:, None]).max()) <= 1.02
    assert all(len(unit.unique()) == 1 for unit in motion["unit"].flatten(2).transpose(0, 1).flatten(1))
    latents = models.vae.encode_motion(motion["motion"]) * models.config.motion_vae.motion_std  # type: ignore[operator]
    assert found.motion_std == pytest.approx(float(latents.square().mean().sqrt()), rel=0.02)


def rows(values: dict[str, list[float]], measure: str = "model_all_error_m") -> pandas.DataFrame:
    """A table of one measure, a value a seed."""
    found = [
        {"ablation": name, "seed": seed, "measure": measure, "value": value}
        for name, own in values.items()
        for seed, value in enumerate(own)
    ]
    return pandas.DataFrame(found)


def test_the_interval_is_students() -> None:
    # Tabled: t(0.975, 2) = 4.3027.
    mean, low, high = interval([1.0, 2.0, 3.0])
    assert (
        mean == 2
        and high - mean == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
        and mean - low == pytest.approx(high - mean)
    )
    assert interval([1.0])[0] == 1 and np.isnan(interval([1.0])[1]) and np.isnan(interval([])[0])


def test_differences_from_the_full_model_are_taken_seed_by_seed() -> None:
    table = summary(rows({"full": [1.0, 2.0, 4.0], "noise": [1.5, 2.5, 4.5]})).set_index("ablation")
    assert table.loc["noise", "mean"] == pytest.approx(17 / 6)
    assert table.loc["noise", ["difference", "difference_low", "difference_high"]].tolist() == pytest.approx([0.5] * 3)
    assert table.loc["full", "difference"] == 0
    alone = summary(rows({"noise": [1.0, 2.0]})).set_index("ablation")
    assert np.isnan(alone.loc["noise", "difference"])


def test_the_table_has_a_row_an_ablation_and_the_best_in_bold() -> None:
    lines = markdown(rows({"full": [0.1, 0.2], "no_mpm": [0.4, 0.5]}), TITLES).splitlines()
    assert lines[2] == "| Ablation | model_all_error_m |"
    assert lines[4].startswith("| MoGe4D | **0.1500** [") and lines[5].startswith("| w/o MPM | 0.4500 [")
    single = markdown(rows({"full": [0.1]}), TITLES)
    assert "| MoGe4D | **0.1000** |" in single


def test_table_4_has_a_column_for_each() -> None:
    assert [TITLES[name] for name in ABLATIONS] == [
        "MoGe4D", "w/o Depth Norm", "w/o Depth Latents", "w/o MPM", "w/o Patch Feat.", "Small Scale", "Low Quality", "Noise",
    ]  # fmt: skip


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What would have been run, in order; every stage ends at once, and the evaluation finds the seed."""
    ran: list[tuple[str, str]] = []

    def run_stage(stage: str, workspace: Path) -> None:
        ran.append((f"{workspace.parent.name}/{workspace.name}", stage))
        seed = yaml.safe_load((workspace / "params.yaml").read_text())["seed"]
        file = workspace / "results" / "metrics" / f"{stage}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"model_all_error_m": 0.1 * seed}))

    monkeypatch.setattr(ablations, "run_stage", run_stage)
    return ran


def test_each_has_its_workspace_and_what_is_done_is_not_done_again(
    workspace: Path, tmp_path: Path, stages: list[tuple[str, str]]
) -> None:
    plan = Plan(SMALL, workspace, tmp_path / "out")
    names = ["full", "no_depth_norm", "no_depth_latents", "no_mpm", "first_token", "small_scale", "noise"]
    found = run_ablations(plan, names, [0, 1])
    assert len(stages) == 2 * (4 * len(names) + 1)
    assert stages[4:9] == [("no_depth_norm/0", s) for s in ("motion_vae", "latents", "strag", "samples", "evaluation")]
    assert set(found["value"]) == {0.0, 0.1} and len(found) == 2 * len(names)
    assert pandas.read_parquet(plan.out / "ablations.parquet").equals(found)
    assert "| w/o MPM | " in (plan.out / "ablations.md").read_text()
    again = run_ablations(plan, names, [0, 1])
    assert len(stages) == 2 * (4 * len(names) + 1) and again.equals(found)
    (plan.out / "full" / "0" / "results" / "metrics" / "evaluation.json").unlink()
    run_ablations(plan, names, [0, 1])
    assert stages[-1] == ("full/0", "evaluation")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("no_mpm", ("none", "log")), ("first_token", ("first", "log")), ("no_depth_latents", ("patch", "none"))],
)
def test_the_checkpoint_says_what_is_left_out(
    workspace: Path, tmp_path: Path, stages: list[tuple[str, str]], name: str, expected: tuple[str, str]
) -> None:
    run_ablations(Plan(SMALL, workspace, tmp_path / "out"), [name], [3])
    made = Models.load(tmp_path / "out" / name / "3" / "models" / "tiny-base")
    assert (made.config.strag.motion_tokens, made.config.generation.depth_encoding) == expected
    base = Models.load(workspace / "models" / "tiny-base")
    assert all(torch.equal(value, base.strag.state_dict()[key]) for key, value in made.strag.state_dict().items())


def test_a_fresh_start_is_the_seeds(workspace: Path, tmp_path: Path, stages: list[tuple[str, str]]) -> None:
    plan = Plan(SMALL, workspace, tmp_path / "out", start="fresh")
    run_ablations(plan, ["full"], [0, 1])
    weights = [(plan.out / "full" / seed / "models/tiny-base/strag.safetensors").read_bytes() for seed in ("0", "1")]
    assert weights[0] != weights[1] != (workspace / "models/tiny-base/strag.safetensors").read_bytes()


def test_what_cannot_be_run_is_refused_before_any_work(
    workspace: Path, tmp_path: Path, stages: list[tuple[str, str]]
) -> None:
    plan = Plan(SMALL, workspace, tmp_path / "out")
    with pytest.raises(AblationError, match="unknown ablations no_magic; there are full, no_depth_norm"):
        run_ablations(plan, ["full", "no_magic"], [0])
    with pytest.raises(AblationError, match=r"lacks datasets/source, .*datasets/tracks; give --root a workspace"):
        run_ablations(plan, ["low_quality"], [0])
    assert not stages
    run_ablations(plan, ["full"], [0])
    other = dataclasses.replace(plan, values=derive(SMALL, {"strag": {"train": {"steps": 5}}}))
    with pytest.raises(AblationError, match="was begun with other values; give another --out, or remove it"):
        run_ablations(other, ["full"], [0])


def test_the_command_names_what_it_does_not_know(tmp_path: Path) -> None:
    arguments = ["smoke", "--out", str(tmp_path), "--root", str(tmp_path), "--only", "magic"]
    run = subprocess.run(
        [sys.executable, "-m", "more4d.training.ablations", *arguments], capture_output=True, text=True
    )
    assert run.returncode == 2 and "unknown ablations magic" in run.stderr
