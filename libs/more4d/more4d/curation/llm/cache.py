"""Answers on disk, one file a question, so that no question is paid for twice."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from more4d.curation.llm.replies import Reply
from more4d.data.atomic import atomic_write_bytes

log = logging.getLogger(__name__)


def question_key(prompt_version: str, request: dict[str, Any]) -> str:
    """SHA-256 of all that an answer depends on: model, settings, prompt version and the messages themselves."""
    canonical = json.dumps([prompt_version, request], sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


class AnswerCache:
    """Replies by question key under a folder; a file is wholly there or not there, whoever is killed when."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> Reply | None:
        """The reply to that question, None where there is none; a damaged file counts as none."""
        path = self._path(key)
        try:
            return Reply.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            log.warning("%s is damaged; the question is asked again", path)
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Keep the reply; when this returns it is on the disk."""
        atomic_write_bytes(self._path(key), reply.model_dump_json().encode(), shared=True)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"
