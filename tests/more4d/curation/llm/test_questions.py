"""Claims about more4d.curation.llm.questions."""

import re
import time
from dataclasses import replace
from typing import Any

import pytest
from more4d.curation.llm.cache import AnswerCache
from more4d.curation.llm.errors import BudgetSpentError, CannotAskError
from more4d.curation.llm.prompts import COUNTABLE, JUDGING_FORM
from more4d.curation.llm.questions import Question, ask_all
from more4d.curation.selection import FlagAnswer

UNUSABLE = {
    "invalid JSON": ('{"reason": "two dogs", "fl', {}, "Invalid JSON"),
    "prose": ("Sure! The answer is yes.", {}, "Invalid JSON"),
    "a field too many": ('{"reason": "a", "flag": true, "sure": 1}', {}, "sure: Extra inputs are not permitted"),
    "no flag": ('{"reason": "a"}', {}, "flag: Field required"),
    "a flag in words": ('{"reason": "a", "flag": "true"}', {}, "flag: Input should be a valid boolean"),
    "a flag as a number": ('{"reason": "a", "flag": 1}', {}, "flag: Input should be a valid boolean"),
    "a flag unset": ('{"reason": "a", "flag": null}', {}, "flag: Input should be a valid boolean"),
    "no reason": ('{"reason": " ", "flag": true}', {}, "reason: String should have at least 1 character"),
    "a list": ("[true]", {}, "valid dictionary|should be an object"),
    "a long reason": (f'{{"reason": "{"a" * 9000}", "flag": true}}', {}, "at most 1000 characters"),
    "empty": ("", {}, "empty answer"),
    "nothing": (None, {}, "empty answer"),
    "refused": (None, {"refusal": "I cannot help with that"}, "refused: I cannot help"),
    "filtered": ("", {"finish": "content_filter"}, "content filter"),
    "cut off": ('{"reason": "a', {"finish": "length"}, "cut off at max_tokens"),
}


def _question(text: str = "two dogs run") -> Question:
    return Question(COUNTABLE, JUDGING_FORM, lambda: text)


@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_unusable_answer_is_put_to_the_model_with_what_is_wrong(
    chat: Any, settings: Any, say: Any, cache: AnswerCache, kind: str
) -> None:
    text, more, words = UNUSABLE[kind]
    chat.script = [say(text, **more)]
    (outcome,) = ask_all([_question()], FlagAnswer, settings(), cache, "test")
    assert outcome.answer == FlagAnswer(reason="two dogs", flag=True)
    assert outcome.spent.attempts == 2
    *_, quoted, objection = chat.asked[1]["messages"]
    assert quoted["content"] == ((text or "(no answer)")[:2000])
    assert "cannot be used" in objection["content"]


@pytest.mark.parametrize("kind", UNUSABLE)
def test_unusable_to_the_end_is_undecided_and_stays_so_without_asking_again(
    chat: Any, settings: Any, say: Any, cache: AnswerCache, kind: str
) -> None:
    text, more, words = UNUSABLE[kind]
    chat.otherwise = say(text, **more)
    first = ask_all([_question()], FlagAnswer, settings(attempts=2), cache, "test")
    assert first[0].answer is None
    assert re.search(f"no usable answer in 2 attempts, the last: .*({words})", first[0].reason), first[0].reason
    assert ask_all([_question()], FlagAnswer, settings(attempts=2), cache, "test") == first
    assert len(chat.asked) == 2


def test_never_more_at_once_than_allowed_and_all_of_those(
    chat: Any, settings: Any, say: Any, cache: AnswerCache
) -> None:
    def slowly(handler: Any, body: dict[str, Any]) -> None:
        time.sleep(0.05)
        say('{"reason": "a", "flag": true}')(handler, body)

    chat.otherwise = slowly
    outcomes = ask_all([_question(str(n)) for n in range(20)], FlagAnswer, settings(concurrency=3), cache, "test")
    assert all(outcome.answer for outcome in outcomes)
    assert chat.most_at_once == 3


def test_outcomes_keep_the_questions_order(chat: Any, settings: Any, say: Any, cache: AnswerCache) -> None:
    def echo(handler: Any, body: dict[str, Any]) -> None:
        number = int(body["messages"][1]["content"])
        time.sleep(0.02 * (number % 3))
        say(f'{{"reason": "{number}", "flag": true}}')(handler, body)

    chat.otherwise = echo
    outcomes = ask_all([_question(str(n)) for n in range(12)], FlagAnswer, settings(concurrency=4), cache, "test")
    assert [outcome.answer.reason for outcome in outcomes if outcome.answer] == [str(n) for n in range(12)]


def test_one_question_without_an_answer_does_not_stop_the_others(
    chat: Any, settings: Any, answer_raw: Any, cache: AnswerCache
) -> None:
    chat.script = [answer_raw(500, b"")]
    questions = [_question("a"), _question("b")]
    outcomes = ask_all(questions, FlagAnswer, settings(retries=0, concurrency=1), cache, "test")
    assert [outcome.answer is None for outcome in outcomes] == [True, False]
    assert "status 500" in outcomes[0].reason


def test_a_question_that_cannot_be_made_is_undecided(chat: Any, settings: Any, cache: AnswerCache) -> None:
    def broken() -> str:
        raise CannotAskError("clip.mp4 cannot be opened")

    (outcome,) = ask_all([Question(COUNTABLE, "", broken)], FlagAnswer, settings(), cache, "test")
    assert (outcome.answer, outcome.reason) == (None, "clip.mp4 cannot be opened")
    assert not chat.asked


def test_every_attempt_is_paid_for_and_a_rerun_says_the_same(
    chat: Any, settings: Any, say: Any, cache: AnswerCache
) -> None:
    chat.script = [say("no JSON"), say('{"reason": "a", "flag": false}', usage={"prompt_tokens": 300})]
    priced = settings(prices={"prompt": 2, "completion": 10})
    first, again = (ask_all([_question()], FlagAnswer, priced, cache, "test") for _ in range(2))
    assert first == again
    spent = first[0].spent
    assert (spent.attempts, spent.prompt_tokens, spent.completion_tokens) == (2, 400, 10)
    assert spent.cost == pytest.approx(400 * 2e-6 + 10 * 10e-6)


@pytest.mark.parametrize("answers", ["json_object", "text"])
def test_an_object_within_a_fence_or_after_thoughts_is_found_where_no_schema_is_enforced(
    chat: Any, settings: Any, say: Any, cache: AnswerCache, answers: str
) -> None:
    chat.script = [say('<think>dogs?</think>\n```json\n{"reason": "two\\n dogs", "flag": false}\n```')]
    (outcome,) = ask_all([_question()], FlagAnswer, settings(answers=answers), cache, "test")
    assert outcome.answer == FlagAnswer(reason="two dogs", flag=False)


@pytest.mark.parametrize(
    "change", [{"model": "n"}, {"temperature": 1}, {"seed": 1}, {"max_tokens": 9}, {"answers": "text"}]
)
def test_another_setting_is_another_question(chat: Any, settings: Any, cache: AnswerCache, change: Any) -> None:
    for changes in ({}, {}, change):
        ask_all([_question()], FlagAnswer, settings(**changes), cache, "test")
    assert len(chat.asked) == 2


def test_another_prompt_version_is_another_question(chat: Any, settings: Any, cache: AnswerCache) -> None:
    for prompt in (COUNTABLE, COUNTABLE, replace(COUNTABLE, version="countable-2")):
        ask_all([Question(prompt, JUDGING_FORM, lambda: "a")], FlagAnswer, settings(), cache, "test")
    assert len(chat.asked) == 2


@pytest.mark.parametrize("content", ["two dogs", [{"type": "text", "text": "two dogs"}]])
def test_a_model_without_a_system_role_is_told_by_the_user(
    chat: Any, settings: Any, cache: AnswerCache, content: Any
) -> None:
    ask_all([Question(COUNTABLE, "Form.", lambda: content)], FlagAnswer, settings(system_role=False), cache, "test")
    (message,) = chat.asked[0]["messages"]
    assert message["role"] == "user"
    assert [part["text"] for part in message["content"]] == [f"{COUNTABLE.text}\n\nForm.", "two dogs"]


def test_a_run_stops_at_its_budget_and_the_next_goes_on_from_there(
    chat: Any, settings: Any, cache: AnswerCache
) -> None:
    questions = [_question(str(n)) for n in range(6)]
    poor = settings(concurrency=1, prices={"prompt": 1e4}, max_cost=2.5)
    with pytest.raises(BudgetSpentError, match="has cost 3 in this run, max_cost=2.5"):
        ask_all(questions, FlagAnswer, poor, cache, "test")
    assert len(chat.asked) == 3
    assert all(outcome.answer for outcome in ask_all(questions, FlagAnswer, settings(), cache, "test"))
    assert len(chat.asked) == 6
