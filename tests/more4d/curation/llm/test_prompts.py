"""Claims about more4d.curation.llm.prompts."""

import hashlib
from pathlib import Path

import pytest
from more4d.curation.llm.prompts import (
    CAPTION,
    CAPTION_FORM,
    COUNTABLE,
    JUDGING_FORM,
    PLAIN_CAPTION_FORM,
    SELF_MOTION,
    Prompt,
    prompt_from_file,
)

WORDS = {"caption-1": "af354de3b9fd", "countable-1": "2e08ba98871a", "self_motion-1": "b36809e86133"}


@pytest.mark.parametrize("prompt", [CAPTION, COUNTABLE, SELF_MOTION], ids=lambda prompt: prompt.name)
def test_no_word_of_a_prompt_changes_without_its_version(prompt: Prompt) -> None:
    form = CAPTION_FORM + PLAIN_CAPTION_FORM if prompt is CAPTION else JUDGING_FORM
    assert hashlib.sha256((prompt.text + form).encode()).hexdigest()[:12] == WORDS[prompt.version]


def test_another_wording_is_known_by_its_files_hash(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("Are there {dogs}? {result: <flag>}\n")
    prompt = prompt_from_file("countable", file)
    assert prompt.text == "Are there {dogs}? {result: <flag>}"
    assert prompt.version == f"countable-file-{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"


@pytest.mark.parametrize("data", [None, b"", b"  \n", b"\xff\xfe\x00"])
def test_a_file_that_is_no_prompt_is_refused_by_name(tmp_path: Path, data: bytes | None) -> None:
    file = tmp_path / "mine.txt"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(ValueError, match=r"prompt for countable at .*mine\.txt"):
        prompt_from_file("countable", file)
