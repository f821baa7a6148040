import pytest
from more4d.scenes.captions import VERBS, swap_direction
from more4d.scenes.world import sample_scene


@pytest.mark.parametrize(
    ("caption", "swapped"),
    [
        ("a red ball rolls to the left", "a red ball rolls to the right"),
        ("a blue box slides slowly towards the camera", "a blue box slides slowly away from the camera"),
        ("a fox looks around on the grass", "a fox looks around on the grass"),
        (
            "a fox walks to the left and a red ball rolls to the right",
            "a fox walks to the right and a red ball rolls to the left",
        ),
    ],
)
def test_swapping_the_direction_turns_every_motion_in_a_caption(caption: str, swapped: str) -> None:
    assert swap_direction(caption) == swapped


def test_swapping_the_direction_twice_gives_the_caption_back() -> None:
    captions = [sample_scene(seed).caption for seed in range(200)]
    assert [swap_direction(swap_direction(caption)) for caption in captions] == captions


def test_a_caption_names_every_object_with_its_colour_and_verb() -> None:
    for seed in range(100):
        spec = sample_scene(seed)
        for thing in spec.objects:
            assert f"{thing.colour} {thing.kind}".strip() in spec.caption
            assert VERBS[thing.action].split()[0] in spec.caption
