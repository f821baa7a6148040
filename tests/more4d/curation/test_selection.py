"""Claims about more4d.curation.selection."""

import pytest
from more4d.curation.selection import CRITERIA, Answer, judge
from more4d.scenes.drifting import DRIFTING_CAPTIONS


def _answers(caption: str) -> dict[str, Answer]:
    (judgement,) = judge("rules").judge_all([("a", caption)])
    assert set(judgement.answers) == set(CRITERIA)
    return judgement.answers


@pytest.mark.parametrize(
    "caption",
    [
        "a fox runs to the left",
        "A red ball bounces quickly on the grass",
        "Three women are walking their dogs.",
        "Wolves chasing a deer through snow",
        "Children jogged past the sea",
        "A man jumps down from a concrete box",
        "A child waves",
        "People walk across a courtyard",
    ],
)
def test_countable_things_that_move_by_themselves_pass(caption: str) -> None:
    assert all(answer.flag for answer in _answers(caption).values())


@pytest.mark.parametrize(
    ("caption", "criterion", "words"),
    [
        ("Smoke rising over the sea", "countable", "names only smoke, sea"),
        ("Waves and foam", "countable", "cannot be counted"),
        ("Abstract loop", "countable", "no subject that the rules know"),
        ("A leaf swaying in the wind", "self_motion", "moved from outside alone: sway"),
        ("A boat, still photograph", "self_motion", "nothing moves"),
        ("Aerial shot of a running horse", "self_motion", "the camera moves: aerial"),
        ("Waves under a bridge", "self_motion", "no motion"),
        ("A cat on a sofa", "self_motion", "no motion that the rules know"),
    ],
)
def test_others_are_refused_with_the_reason(caption: str, criterion: str, words: str) -> None:
    answer = _answers(caption)[criterion]
    assert answer.flag is False
    assert words in answer.reason


@pytest.mark.parametrize("caption", [text for captions in DRIFTING_CAPTIONS.values() for text in captions])
def test_what_drifts_is_refused_whatever_it_is_called(caption: str) -> None:
    assert not all(answer.flag for answer in _answers(caption).values())


def test_an_unknown_judge_is_refused_with_the_known() -> None:
    with pytest.raises(ValueError, match="unknown judge 'gpt'; the judges are rules, llm"):
        judge("gpt")


def test_a_model_without_a_server_is_refused() -> None:
    with pytest.raises(ValueError, match=r"give selection\.server its base_url and model"):
        judge("llm")
