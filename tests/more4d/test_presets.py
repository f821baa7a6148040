from pathlib import Path

import pytest
import yaml
from more4d.presets import PRESETS, SMOKE, TINY, derive, write_preset
from more4d.stages.base import VideoSpec
from more4d.stages.registry import LINEAGE, TINY_BASE, get_stage

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


def test_an_unknown_preset_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown preset 'huge'; the presets are smoke, tiny"):
        write_preset("huge", tmp_path / "params.yaml")
    assert not list(tmp_path.iterdir())
