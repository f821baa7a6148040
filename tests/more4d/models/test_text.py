import logging

import pytest
import torch
from more4d.models.text import TINY, TextEncoder, build_tokenizer

CAPTIONS = ("a fox runs to the left", "a red ball rolls to the right", "a box slides away from the camera")


@pytest.fixture
def encoder() -> TextEncoder:
    return TextEncoder.from_config(TINY, build_tokenizer(CAPTIONS, TINY.vocabulary))


def test_prompts_become_vectors_that_are_zero_at_the_padding(encoder: TextEncoder) -> None:
    prompts = ["a fox runs", "", "a red ball rolls to the right"]
    _, mask = encoder.tokenize(prompts)
    vectors = encoder.encode(prompts)
    assert vectors.shape == (3, TINY.max_tokens, TINY.dim)
    assert mask.sum(1).tolist() == [4, 1, 8]
    assert torch.equal(vectors[~mask], torch.zeros_like(vectors[~mask]))
    assert bool((vectors[mask].abs().sum(-1) > 0).all())


def test_padding_does_not_change_a_prompts_vectors(encoder: TextEncoder) -> None:
    ids, mask = encoder.tokenize(["a fox runs"])
    changed = torch.where(mask, ids, torch.full_like(ids, 7))
    torch.testing.assert_close(encoder(ids, mask), encoder(changed, mask))


@pytest.mark.parametrize("prompt", ["zebra", "an élan", "日本", "🦊 swims", "x_1%"])
def test_unknown_words_tokenise_without_loss(encoder: TextEncoder, prompt: str) -> None:
    ids, _ = encoder.tokenize([prompt])
    assert encoder.tokenizer.decode(ids[0], skip_special_tokens=True).strip() == prompt


def test_known_words_are_single_tokens_whatever_their_case(encoder: TextEncoder) -> None:
    ids, mask = encoder.tokenize(["A fox runs to the LEFT", "a fox runs to the left "])
    assert torch.equal(ids[0], ids[1])
    assert int(mask[0].sum()) == 7


def test_a_prompt_that_is_cut_is_reported(encoder: TextEncoder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ids, mask = encoder.tokenize(["qxz" * 30])
    assert ids.shape == (1, TINY.max_tokens)
    assert bool(mask.all())
    assert "1 of 1 prompts are cut to 24 tokens" in caplog.text


def test_the_same_captions_in_any_order_give_the_same_tokenizer() -> None:
    assert build_tokenizer(CAPTIONS, 300) == build_tokenizer(CAPTIONS[::-1], 300)


def test_a_vocabulary_without_room_for_every_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="vocabulary=200 must be at least 258"):
        build_tokenizer(CAPTIONS, 200)


def test_a_tokenizer_larger_than_the_embedding_is_refused() -> None:
    config = TINY.model_copy(update={"vocabulary": 258})
    with pytest.raises(ValueError, match="more than vocabulary=258"):
        TextEncoder.from_config(config, build_tokenizer(CAPTIONS, 300))


def test_weights_hold_no_tensor_twice(encoder: TextEncoder) -> None:
    pointers = [value.data_ptr() for value in encoder.state_dict().values()]
    assert len(pointers) == len(set(pointers))
