"""Claims about more4d.sourcing.limits."""

import pytest
from more4d.sourcing.limits import FetchLimits
from pydantic import ValidationError


@pytest.mark.parametrize(
    ("content_type", "taken"),
    [
        ("video/mp4", True), ("VIDEO/WebM", True), ("application/octet-stream", True), ("image/gif", True),
        ("text/html", False), ("application/json", False), ("image/png", False), ("", False),
    ],
)  # fmt: skip
def test_videos_and_unnamed_bytes_are_taken_and_nothing_else(content_type: str, taken: bool) -> None:
    assert FetchLimits().takes_type(content_type) == taken


def test_a_limit_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError):
        FetchLimits(parallel=0)
    with pytest.raises(ValidationError):
        FetchLimits.model_validate({"retries": 3})
