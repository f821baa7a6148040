"""Which server is asked, how hard, and what its tokens cost."""

import os
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from more4d.settings import Section

AnswerForm = Literal["json_schema", "json_object", "text"]


class Prices(Section):
    """What a million tokens cost, in whatever currency the bill comes in."""

    prompt: float = Field(default=0.0, ge=0)
    completion: float = Field(default=0.0, ge=0)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost, in that currency."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


class ServerSettings(Section):
    """An OpenAI-compatible server and how it is asked."""

    base_url: str
    """Up to /v1, without credentials: `http://127.0.0.1:8000/v1`."""
    model: str = Field(min_length=1)
    api_key_env: str | None = None
    """The environment variable that holds the key; null for a server that wants none."""
    answers: AnswerForm = "json_schema"
    """How the form of an answer is asked for: by a schema that the server enforces, as any JSON, or in words alone."""
    concurrency: int = Field(default=8, ge=1, le=1024)
    timeout_s: float = Field(default=120.0, gt=0)
    retries: int = Field(default=4, ge=0, le=20)
    """How often a request is sent again after a 429, a 5xx, a timeout or a cut connection, with growing pauses."""
    attempts: int = Field(default=3, ge=1, le=20)
    """How often a question is put before an answer that cannot be used leaves it undecided."""
    max_failures: int = Field(default=20, ge=1)
    """Questions in a row that may fail for want of an answer before the run stops."""
    max_tokens: int = Field(default=512, ge=1)
    max_answer_bytes: int = Field(default=1_000_000, ge=1000)
    temperature: float = Field(default=0.0, ge=0, le=2)
    seed: int | None = 0
    prices: Prices = Prices()
    max_cost: float | None = Field(default=None, gt=0)
    """What one run may spend, in the currency of the prices; then it stops, and what was answered is kept."""
    system_role: bool = True
    """False for a model whose chat template knows no system message (CogVLM2's, Gemma's): the user says it all."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """What this server wants beside, such as {chat_template_kwargs: {enable_thinking: false}}."""

    @field_validator("base_url")
    @classmethod
    def _can_be_written_down(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("base_url must be http://HOST/... or https://HOST/...")
        if parts.username or parts.password or parts.query:
            raise ValueError("base_url must hold no credentials; put the key into the environment, see api_key_env")
        return value


def api_key(settings: ServerSettings) -> str | None:
    """The server's key out of the environment, None where it wants none. Raises ValueError naming the variable."""
    if settings.api_key_env is None:
        return None
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key:
        raise ValueError(f"{settings.model} needs a key: put it into the environment variable {settings.api_key_env}")
    return key
