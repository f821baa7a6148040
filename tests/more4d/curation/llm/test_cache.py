"""Claims about more4d.curation.llm.cache."""

from pathlib import Path

from more4d.curation.llm.cache import AnswerCache, question_key
from more4d.curation.llm.replies import Reply

REPLY = Reply(text="yes", fault="", prompt_tokens=1, completion_tokens=2)


def test_a_reply_is_found_again_by_another_process(tmp_path: Path) -> None:
    AnswerCache(tmp_path).put("ab12", REPLY)
    assert AnswerCache(tmp_path).get("ab12") == REPLY
    assert AnswerCache(tmp_path).get("ab13") is None


def test_a_damaged_file_counts_as_none_and_is_replaced(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    cache.put("ab12", REPLY)
    (tmp_path / "ab" / "ab12.json").write_bytes(b'{"text": "ye')
    assert cache.get("ab12") is None
    cache.put("ab12", REPLY)
    assert cache.get("ab12") == REPLY


def test_nothing_half_written_is_left_behind(tmp_path: Path) -> None:
    AnswerCache(tmp_path).put("ab12", REPLY)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["ab12.json"]


def test_the_key_depends_on_the_prompt_version_and_the_whole_request() -> None:
    keys = {question_key(*given) for given in (("1", {"a": 1, "b": 2}), ("2", {"a": 1, "b": 2}), ("1", {"a": 1}))}
    assert len(keys) == 3
    assert question_key("1", {"b": 2, "a": 1}) == question_key("1", {"a": 1, "b": 2})
