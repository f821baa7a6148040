from pathlib import Path

import pytest
import yaml
from more4d.models.architectures import ARCHITECTURES
from more4d.models.work import GenerationStep
from more4d.presets import PRESETS, SMOKE, TINY, WAN_14B, derive, write_preset
from more4d.stages.base import VideoSpec
from more4d.stages.registry import LINEAGE, TINY_BASE, get_stage
from more4d.training.plan.activations import activation_sizes
from more4d.training.plan.choose import GB, Training, require_fit
from more4d.training.plan.memory import Plan
from more4d.training.plan.sizes import preset_sizes

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("stage", LINEAGE)
def test_every_stage_accepts_its_section_of_every_preset(preset: str, stage: str) -> None:
    get_stage(stage).section.model_validate(PRESETS[preset][stage])


@pytest.mark.parametrize("stage", TINY_BASE)
def test_every_stage_of_the_tiny_base_accepts_its_section(stage: str) -> None:
    values = yaml.safe_load((ROOT / "infra/tiny-base/params.yaml").read_text())
    get_stage(stage).section.model_validate(values[stage])


def test_a_preset_holds_the_stages_sections_and_nothing_else() -> None:
    for values in PRESETS.values():
        assert set(values) == {"preset", "seed", "video", *LINEAGE}
        VideoSpec.model_validate(values["video"])


def test_params_yaml_is_the_tiny_preset() -> None:
    assert yaml.safe_load((ROOT / "params.yaml").read_text()) == TINY


def test_deriving_changes_only_what_differs() -> None:
    derived = derive({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 5}})
    assert derived == {"a": {"x": 1, "y": 5}, "b": 3}
    assert SMOKE["clips"] == TINY["clips"]
    assert SMOKE["strag"]["flow"] == TINY["strag"]["flow"]


def test_the_large_presets_have_the_papers_video_steps_and_rates() -> None:
    generation = ARCHITECTURES["wan-14b"].generation
    video = WAN_14B["video"]
    assert (video["frames"], video["height"], video["width"]) == (
        generation.frames,
        generation.height,
        generation.width,
    )
    trains = {stage: WAN_14B[stage]["train"] for stage in ("motion_vae", "strag", "vism")}
    assert [train["steps"] for train in trains.values()] == [5000, 2000, 10000]
    assert [train["learning_rate"] for train in trains.values()] == [5e-6, 2e-5, 1e-4]
    assert (WAN_14B["vism"]["lora"]["rank"], WAN_14B["vism"]["lora"]["merge_weight"]) == (128, 0.55)


@pytest.mark.parametrize("preset", ["wan-1.3b", "wan-14b"])
@pytest.mark.parametrize(("stage", "step"), [("strag", "trajectories"), ("vism", "views")])
def test_a_large_presets_trainings_fit_four_gpus_of_141_gb(preset: str, stage: str, step: GenerationStep) -> None:
    section = get_stage(stage).section.model_validate(PRESETS[preset][stage])
    settings, lora, architecture = section.train, section.lora, ARCHITECTURES[preset]  # type: ignore[attr-defined]
    rank = lora.rank if lora else 0
    training = Training(preset_sizes(architecture, step, lora), activation_sizes(architecture, step, rank=rank), 4)
    strategy = "ddp" if settings.strategy == "auto" else settings.strategy
    part_size, over = divmod(settings.batch_size, 4 * settings.accumulate)
    assert not over
    require_fit(training, Plan(strategy, 4, settings.recompute, part_size, settings.precision), 141 * GB)


def test_an_unknown_preset_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown preset 'huge'; the presets are smoke, tiny, wan-1.3b, wan-14b"):
        write_preset("huge", tmp_path / "params.yaml")
    assert not list(tmp_path.iterdir())
