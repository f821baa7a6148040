"""Which captions describe what a 4D scene can be made of, behind one interface: a rule set, or a model.

Two criteria, after the paper's section 3 and appendix D, in our own words.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import BeforeValidator, StrictBool, StringConstraints, WithJsonSchema

from more4d.curation.llm.accounting import Spent
from more4d.curation.llm.cache import AnswerCache
from more4d.curation.llm.prompts import COUNTABLE, JUDGING_FORM, SELF_MOTION, Prompt, prompt_from_file
from more4d.curation.llm.questions import ModelAnswer, Outcome, Question, ask_all
from more4d.curation.llm.settings import ServerSettings
from more4d.curation.vocabulary import (
    CAMERA_MOTIONS,
    DRIVEN_MOTIONS,
    PAST,
    PLURALS,
    SELF_MOTIONS,
    STILL,
    SUBJECTS,
    UNCOUNTABLE,
)

CRITERIA = {
    "countable": "one or more things are named that could be counted",
    "self_motion": "they move by themselves or change their shape, not carried by wind, water or the camera",
}


@dataclass(frozen=True)
class Answer:
    """One criterion's flag with its reason; None where the judge could not decide."""

    flag: bool | None
    reason: str


@dataclass(frozen=True)
class Judgement:
    """A caption's answers by criterion, one for each of CRITERIA."""

    clip_id: str
    answers: dict[str, Answer]
    spent: Spent = Spent()


class Judge(Protocol):
    """Judges captions, in their order; many at once, as a server would be asked."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def model(self) -> str: ...

    def judge_all(self, captions: Iterable[tuple[str, str]]) -> Iterator[Judgement]: ...


class RuleJudge:
    """Looks for known words in the caption: subjects that can be counted and motions of their own."""

    name = "rules"
    version = "1"
    model = ""

    def judge_all(self, captions: Iterable[tuple[str, str]]) -> Iterator[Judgement]:
        """A judgement of each (clip id, caption)."""
        for clip_id, caption in captions:
            words = base_forms(caption)
            yield Judgement(clip_id, {"countable": _countable(words), "self_motion": _self_motion(words)})


def _one_line(value: object) -> object:
    return " ".join(value.split()) if isinstance(value, str) else value


class FlagAnswer(ModelAnswer):
    """What a model answers with; the reason first, so that the flag follows from it."""

    reason: Annotated[
        str,
        StringConstraints(min_length=1, max_length=1000),
        BeforeValidator(_one_line),
        # Every enforcing server knows this pattern; without a limit a small model rambles until it is cut off.
        WithJsonSchema({"type": "string", "pattern": r'^[^\n\\"]{1,300}$'}),
    ]
    flag: StrictBool


class LlmJudge:
    """A language model behind an OpenAI-compatible server, DeepSeek-V3 say, asked once for each criterion."""

    def __init__(self, server: ServerSettings, cache: AnswerCache, prompts: Mapping[str, Prompt]) -> None:
        assert list(prompts) == list(CRITERIA)
        self._server, self._cache, self._prompts = server, cache, prompts
        self.name, self.model = f"llm:{server.model}", server.model
        self.version = "+".join(prompt.version for prompt in prompts.values())

    def judge_all(self, captions: Iterable[tuple[str, str]]) -> Iterator[Judgement]:
        """A judgement of each (clip id, caption). Raises what `ask_all` raises."""
        wanted = list(captions)
        questions = [
            Question(prompt, JUDGING_FORM, partial(_caption_message, caption))
            for _, caption in wanted
            for prompt in self._prompts.values()
        ]
        outcomes = iter(ask_all(questions, FlagAnswer, self._server, self._cache, "selection"))
        for clip_id, _ in wanted:
            given = {name: next(outcomes) for name in CRITERIA}
            answers = {name: _as_answer(outcome) for name, outcome in given.items()}
            yield Judgement(clip_id, answers, sum((o.spent for o in given.values()), Spent()))


def judge(
    name: str,
    server: ServerSettings | None = None,
    cache: AnswerCache | None = None,
    prompt_files: Mapping[str, Path] | None = None,
) -> Judge:
    """The judge called `name`; "llm" needs a server and a cache, and takes other wordings by criterion.

    Raises ValueError listing the known, or where a prompt file cannot be read.
    """
    if name == RuleJudge.name:
        return RuleJudge()
    if name != "llm":
        raise ValueError(f"unknown judge {name!r}; the judges are rules, llm")
    if server is None or cache is None:
        raise ValueError("judge llm needs a server: give selection.server its base_url and model in params.yaml")
    prompts = {"countable": COUNTABLE, "self_motion": SELF_MOTION}
    prompts |= {criterion: prompt_from_file(criterion, path) for criterion, path in (prompt_files or {}).items()}
    return LlmJudge(server, cache, prompts)


def _caption_message(caption: str) -> str:
    return json.dumps({"caption": caption}, ensure_ascii=False)


def _as_answer(outcome: Outcome[FlagAnswer]) -> Answer:
    return Answer(outcome.answer.flag, outcome.answer.reason) if outcome.answer else Answer(None, outcome.reason)


def base_forms(caption: str) -> list[frozenset[str]]:
    """For each word of the caption, the base forms that it may have: 'foxes' may be a fox, 'running' may be run."""
    return [_forms(word) for word in re.findall(r"[a-z]+(?:-[a-z]+)*", caption.lower())]


def _forms(word: str) -> frozenset[str]:
    forms = {word, PLURALS.get(word, word), PAST.get(word, word)}
    for ending, replacements in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 2:
            stem = word[: -len(ending)]
            forms |= {stem + replacement for replacement in replacements}
            # "running", "jogged": the last letter was doubled.
            if ending in ("ing", "ed") and stem[-1] == stem[-2]:
                forms.add(stem[:-1])
    return frozenset(forms)


_ENDINGS = (("s", ("",)), ("es", ("",)), ("ies", ("y",)), ("ing", ("", "e")), ("ed", ("", "e")), ("ied", ("y",)))


def _countable(words: list[frozenset[str]]) -> Answer:
    subjects = _known(words, SUBJECTS)
    if subjects:
        return Answer(True, f"names {', '.join(subjects)}")
    uncountable = _known(words, UNCOUNTABLE)
    if uncountable:
        return Answer(False, f"names only {', '.join(uncountable)}, which cannot be counted")
    return Answer(False, "names no subject that the rules know")


def _self_motion(words: list[frozenset[str]]) -> Answer:
    if still := _known(words, STILL):
        return Answer(False, f"says that nothing moves: {', '.join(still)}")
    if camera := _known(words, CAMERA_MOTIONS):
        return Answer(False, f"the camera moves: {', '.join(camera)}")
    if own := _known(_verbs(words), SELF_MOTIONS):
        return Answer(True, f"moves by itself: {', '.join(own)}")
    if driven := _known(words, DRIVEN_MOTIONS):
        return Answer(False, f"moved from outside alone: {', '.join(driven)}")
    return Answer(False, "names no motion that the rules know")


def _verbs(words: list[frozenset[str]]) -> list[frozenset[str]]:
    """The words without those that are rather nouns: "waves" is a motion only of a subject named before."""
    verbs, subject_named = [], False
    for forms in words:
        if subject_named or not forms & (SUBJECTS | UNCOUNTABLE):
            verbs.append(forms)
        subject_named |= bool(forms & SUBJECTS)
    return verbs


def _known(words: list[frozenset[str]], vocabulary: frozenset[str]) -> list[str]:
    """The known words in the caption's order, once each."""
    return list(dict.fromkeys(form for forms in words for form in sorted(forms & vocabulary)))
