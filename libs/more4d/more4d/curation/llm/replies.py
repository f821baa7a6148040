"""What a chat completion holds of use, whatever else the server put there."""

from typing import Any

from pydantic import BaseModel, Field, ValidationError

from more4d.curation.llm.errors import NotACompletionError
from more4d.settings import Section


class Reply(Section):
    """A model's answer as it came: its text, or in `fault` why there is none; and the tokens that it took."""

    text: str
    fault: str
    prompt_tokens: int
    completion_tokens: int


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = Field(default=0, ge=0, strict=True)
    completion_tokens: int = Field(default=0, ge=0, strict=True)


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


def read_reply(body: bytes) -> Reply:
    """The reply in the body of a chat completion. Raises NotACompletionError."""
    try:
        completion = _Completion.model_validate_json(body)
    except ValidationError as error:
        raise NotACompletionError(f"the server's answer is no chat completion: {faults_of(error)}") from error
    choice, usage = completion.choices[0], completion.usage or _Usage()
    text = (choice.message.content or "").strip()
    fault = _fault(choice, text)
    return Reply(text=text, fault=fault, prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)


def faults_of(error: ValidationError, limit: int = 500) -> str:
    """Every fault that the validation found, on one line, without the values that it found."""
    faults: list[Any] = error.errors(include_url=False, include_input=False, include_context=False)
    text = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'answer'}: {fault['msg']}" for fault in faults)
    return " ".join(text.split())[:limit]


def _fault(choice: _Choice, text: str) -> str:
    if choice.message.refusal:
        return f"refused: {' '.join(choice.message.refusal.split())[:200]}"
    if choice.finish_reason == "content_filter":
        return "refused by the server's content filter"
    if choice.finish_reason == "length":
        return "cut off at max_tokens"
    return "" if text else "empty answer"
