"""Claims about more4d.curation.captions."""

from pathlib import Path

import pytest
from more4d.curation.captions import CaptionRequest, captioner, clean_caption


def test_captions_become_one_line_of_plain_text() -> None:
    assert clean_caption(" A&nbsp;fox <b>runs</b>\n fast\u200b https://x.y/z \x07!") == "A fox runs fast !"


def test_the_table_captioner_answers_in_order() -> None:
    requests = [CaptionRequest(name, Path(name), f" {name}  moves ") for name in ("b", "a")]
    answers = list(captioner("table").caption_all(requests))
    assert [(answer.clip_id, answer.text) for answer in answers] == [("b", "b moves"), ("a", "a moves")]


def test_an_unknown_captioner_is_refused_with_the_known() -> None:
    with pytest.raises(ValueError, match="unknown captioner 'cogvlm2'; the captioners are table"):
        captioner("cogvlm2")
