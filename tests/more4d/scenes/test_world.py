from collections import Counter

import numpy as np
import pytest
from more4d.scenes import SceneConfig, SceneSpec, sample_scene
from pydantic import ValidationError


def test_a_seed_gives_one_scene_and_another_seed_another() -> None:
    assert sample_scene(5) == sample_scene(5)
    assert sample_scene(5) != sample_scene(6)


def test_a_scene_survives_json() -> None:
    for seed in range(20):
        spec = sample_scene(seed)
        assert SceneSpec.model_validate_json(spec.model_dump_json()) == spec


def test_about_a_quarter_of_scenes_has_two_objects_and_every_action_occurs() -> None:
    specs = [sample_scene(seed) for seed in range(400)]
    assert 0.18 < np.mean([len(spec.objects) == 2 for spec in specs]) < 0.32
    actions = Counter(spec.objects[0].action for spec in specs)
    assert set(actions) == {"walk", "run", "survey", "roll", "bounce", "slide"}
    assert min(actions.values()) > 10


def test_where_a_ball_or_box_starts_does_not_tell_where_it_goes() -> None:
    specs = [sample_scene(seed, SceneConfig(fox_share=0, pair_share=0)) for seed in range(600)]
    starts = {side: [s.objects[0].start_x for s in specs if s.direction == side] for side in ("left", "right")}
    spread = np.std(starts["left"] + starts["right"])
    assert abs(np.mean(starts["left"]) - np.mean(starts["right"])) < 0.25 * spread


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        SceneConfig.model_validate({"fox_shares": 0.5})
