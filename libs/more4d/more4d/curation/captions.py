"""Captions of clips behind one interface: the source table's own, or a vision-language model's."""

import base64
import html
import io
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

from PIL import Image
from pydantic import Field

from more4d.curation.llm.accounting import Spent
from more4d.curation.llm.cache import AnswerCache
from more4d.curation.llm.errors import CannotAskError
from more4d.curation.llm.prompts import CAPTION, CAPTION_FORM, PLAIN_CAPTION_FORM, Prompt, prompt_from_file
from more4d.curation.llm.questions import ModelAnswer, Question, ask_all
from more4d.curation.llm.settings import AnswerForm, ServerSettings
from more4d.data.video import VideoError, iter_frames
from more4d.settings import Section


@dataclass(frozen=True)
class CaptionRequest:
    """A clip that wants a caption, and what its source table calls it."""

    clip_id: str
    clip: Path
    table_caption: str


@dataclass(frozen=True)
class Caption:
    """The answer for one clip; empty where there is none, `undecided` saying why a model gave none."""

    clip_id: str
    text: str
    undecided: str = ""
    spent: Spent = Spent()


class Captioner(Protocol):
    """Writes captions, in the order of the requests; many at once, as a server would be asked."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def model(self) -> str: ...

    def caption_all(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]: ...


class TableCaptioner:
    """The source table's own caption, cleaned."""

    name = "table"
    version = "1"
    model = ""

    def caption_all(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]:
        """Each request's table caption after `clean_caption`."""
        for request in requests:
            yield Caption(request.clip_id, clean_caption(request.table_caption))


class FrameSettings(Section):
    """Which frames of a clip a model is shown, and how."""

    fps: float = Field(default=1.0, gt=0)
    most: int = Field(default=24, ge=1)
    longest_side: int = Field(default=768, ge=32)
    """Pixels; larger frames are reduced to it."""
    jpeg_quality: int = Field(default=90, ge=1, le=95)


class CaptionAnswer(ModelAnswer):
    """What a model answers with."""

    caption: str = Field(min_length=1)

    @classmethod
    def read(cls, text: str, form: AnswerForm) -> Self:
        """The caption in a reply's text; free text is the caption itself. Raises pydantic's ValidationError."""
        return cls(caption=text) if form == "text" else super().read(text, form)


class VlmCaptioner:
    """A vision-language model behind an OpenAI-compatible server: CogVLM2, or any other."""

    def __init__(
        self, server: ServerSettings, cache: AnswerCache, frames: FrameSettings, prompt: Prompt = CAPTION
    ) -> None:
        self._server, self._cache, self._frames, self._prompt = server, cache, frames, prompt
        self.name, self.version, self.model = f"vlm:{server.model}", prompt.version, server.model

    def caption_all(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]:
        """The model's caption of each clip, by its frames alone. Raises what `ask_all` raises."""
        wanted = list(requests)
        form = PLAIN_CAPTION_FORM if self._server.answers == "text" else CAPTION_FORM
        questions = [Question(self._prompt, form, partial(frames_message, r.clip, self._frames)) for r in wanted]
        outcomes = ask_all(questions, CaptionAnswer, self._server, self._cache, "captions")
        for request, outcome in zip(wanted, outcomes, strict=True):
            text = clean_caption(outcome.answer.caption) if outcome.answer else ""
            yield Caption(request.clip_id, text, outcome.reason, outcome.spent)


def captioner(
    name: str,
    server: ServerSettings | None = None,
    cache: AnswerCache | None = None,
    frames: FrameSettings | None = None,
    prompt_file: Path | None = None,
) -> Captioner:
    """The captioner called `name`; "vlm" needs a server and a cache. Raises ValueError listing the known."""
    if name == TableCaptioner.name:
        return TableCaptioner()
    if name != "vlm":
        raise ValueError(f"unknown captioner {name!r}; the captioners are table, vlm")
    if server is None or cache is None:
        raise ValueError("captioner vlm needs a server: give captions.server its base_url and model in params.yaml")
    prompt = prompt_from_file("caption", prompt_file) if prompt_file else CAPTION
    return VlmCaptioner(server, cache, frames or FrameSettings(), prompt)


def frames_message(clip: Path, settings: FrameSettings) -> list[dict[str, Any]]:
    """A user message of a clip's frames, as JPEG data URLs in the clip's order, never none; then how many they are.

    Raises CannotAskError where the clip cannot be read.
    """
    try:
        images = [image for _, image in itertools.islice(iter_frames(clip, settings.fps), settings.most)]
    except VideoError as error:
        raise CannotAskError(str(error)) from error
    # Some servers take no message without words.
    told = {"type": "text", "text": f"{len(images)} frames, {settings.fps:g} a second."}
    urls = (_data_url(Image.fromarray(image), settings) for image in images)
    return [*({"type": "image_url", "image_url": {"url": url}} for url in urls), told]


def _data_url(image: Image.Image, settings: FrameSettings) -> str:
    image.thumbnail((settings.longest_side, settings.longest_side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=settings.jpeg_quality)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def clean_caption(text: str) -> str:
    """The caption as one line of plain text: entities and tags resolved, control characters and links removed."""
    text = unicodedata.normalize("NFKC", html.unescape(text))
    text = re.sub(r"<[^<>]*>|https?://\S+", " ", text)
    text = "".join(c if not unicodedata.category(c).startswith("C") else " " for c in text)
    return " ".join(text.split())
