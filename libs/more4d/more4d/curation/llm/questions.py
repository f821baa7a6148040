"""Many questions at once, each with a typed answer or with the reason why there is none."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from pydantic import ValidationError
from tqdm import tqdm

from more4d.asynchronous import completed
from more4d.curation.llm.accounting import Spent
from more4d.curation.llm.cache import AnswerCache
from more4d.curation.llm.errors import CannotAskError, UnansweredError
from more4d.curation.llm.prompts import Prompt
from more4d.curation.llm.replies import Reply, faults_of
from more4d.curation.llm.settings import AnswerForm, ServerSettings
from more4d.settings import Section

if TYPE_CHECKING:
    from more4d.curation.llm.client import ChatClient

log = logging.getLogger(__name__)


class ModelAnswer(Section):
    """What a model answers with: the fields of a JSON object, all of them required."""

    @classmethod
    def read(cls, text: str, form: AnswerForm) -> Self:
        """The answer in a reply's text. Raises pydantic's ValidationError."""
        if form != "json_schema" and "{" in text:
            # Such servers wrap the object in a code fence, or think aloud before it.
            text = text[text.index("{") : text.rfind("}") + 1]
        return cls.model_validate_json(text)


A = TypeVar("A", bound=ModelAnswer)
Content = str | list[dict[str, Any]]
"""A user message: text, or OpenAI's parts of text and images."""

_QUOTED = 2000
"""Characters of an unusable answer that the model is shown again."""


@dataclass(frozen=True)
class Question:
    """A prompt and what it is about, made when its turn comes: pictures of many clips would not fit into memory."""

    prompt: Prompt
    form: str
    """How the answer is to be written; added to the prompt, whoever worded that."""
    content: Callable[[], Content]


@dataclass(frozen=True)
class Outcome(Generic[A]):
    """The answer, or None with the reason: undecided."""

    answer: A | None
    reason: str
    spent: Spent


def ask_all(
    questions: Sequence[Question], answer: type[A], settings: ServerSettings, cache: AnswerCache, label: str
) -> list[Outcome[A]]:
    """One outcome for each question, in their order, at most `settings.concurrency` asked at a time.

    What is in the cache is not asked. Raises ServerRefusedError, ServerDownError and BudgetSpentError, ValueError where
    the key is not in the environment.
    """
    return completed(_ask_all(questions, answer, settings, cache, label))


async def _ask_all(
    questions: Sequence[Question], answer: type[A], settings: ServerSettings, cache: AnswerCache, label: str
) -> list[Outcome[A]]:
    # Here, since it takes the openai package most of a second to be imported, and table and rules never need it.
    from more4d.curation.llm.client import ChatClient

    outcomes: dict[int, Outcome[A]] = {}
    waiting = iter(enumerate(questions))
    with tqdm(total=len(questions), desc=label, unit="question", mininterval=0.5) as bar:
        async with ChatClient(settings, cache) as client:
            askers = [
                _keep_asking(waiting, answer, client, settings, outcomes, bar) for _ in range(settings.concurrency)
            ]
            try:
                async with asyncio.TaskGroup() as group:
                    for asker in askers:
                        group.create_task(asker)
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None
            log.info("%s: %d questions, %d requests sent, the rest was known", label, len(questions), client.asked)
    return [outcomes[number] for number in range(len(questions))]


async def _keep_asking(
    waiting: Iterator[tuple[int, Question]],
    answer: type[A],
    client: "ChatClient",
    settings: ServerSettings,
    outcomes: dict[int, Outcome[A]],
    bar: tqdm,
) -> None:
    for number, question in waiting:
        outcomes[number] = await _ask(question, answer, client, settings)
        bar.update()


async def _ask(question: Question, answer: type[A], client: "ChatClient", settings: ServerSettings) -> Outcome[A]:
    spent, reason = Spent(), ""
    try:
        content = await asyncio.to_thread(question.content)
        messages = _messages(question, content, system_role=settings.system_role)
        for _ in range(settings.attempts):
            reply = await client.reply(
                messages, prompt_version=question.prompt.version, schema=answer.model_json_schema()
            )
            spent += Spent.on(reply, settings.prices)
            given, reason = _read(reply, answer, settings)
            if given is not None:
                return Outcome(given, "", spent)
            messages += _objection(reply, reason, question.form)
    except (UnansweredError, CannotAskError) as error:
        return Outcome(None, str(error), spent)
    return Outcome(None, f"no usable answer in {spent.attempts} attempts, the last: {reason}", spent)


def _messages(question: Question, content: Content, *, system_role: bool) -> list[dict[str, Any]]:
    told = f"{question.prompt.text}\n\n{question.form}"
    if system_role:
        return [{"role": "system", "content": told}, {"role": "user", "content": content}]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [{"role": "user", "content": [{"type": "text", "text": told}, *parts]}]


def _read(reply: Reply, answer: type[A], settings: ServerSettings) -> tuple[A | None, str]:
    if reply.fault:
        return None, reply.fault
    try:
        return answer.read(reply.text, settings.answers), ""
    except ValidationError as error:
        return None, faults_of(error)


def _objection(reply: Reply, reason: str, form: str) -> list[dict[str, Any]]:
    """Tells the model what was wrong with its answer."""
    return [
        {"role": "assistant", "content": reply.text[:_QUOTED] or "(no answer)"},
        {"role": "user", "content": f"This answer cannot be used: {reason}. Try again. {form}"},
    ]
