"""Claims about more4d.sourcing.objects, against a real S3 server."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import s3fs
from more4d.sourcing.addresses import Reach
from more4d.sourcing.fetch import fetch_all
from more4d.sourcing.limits import FetchLimits
from more4d.sourcing.store import Fetched, place_of

CONTENT = bytes(range(256)) * 100_000  # Four ranges.
URL = "s3://videos/some folder/a.mp4"


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> s3fs.S3FileSystem:
    """A bucket with one video, and the environment that finds it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-key")
    found = s3fs.S3FileSystem(skip_instance_cache=True)
    if not found.exists("videos"):
        found.mkdir("videos")
    found.pipe_file(URL, CONTENT)
    return found


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., Fetched]:
    """Fetches one URL into the test's folder; keywords change the limits."""

    def one(url: str, **limits: Any) -> Fetched:
        given = FetchLimits.model_validate({"backoff": 0.01, "attempts": 2} | limits)
        return fetch_all([url], tmp_path, reach=Reach(frozenset({"s3"})), limits=given)[url]

    return one


def test_an_object_is_had_range_by_range(bucket: s3fs.S3FileSystem, fetch: Callable[..., Fetched]) -> None:
    found = fetch(URL)
    assert found.file is not None and found.file.read_bytes() == CONTENT


def test_a_begun_object_is_continued_and_not_begun_again(
    bucket: s3fs.S3FileSystem, fetch: Callable[..., Fetched], tmp_path: Path
) -> None:
    place = place_of(tmp_path, URL)
    place.begin(bucket.info(URL)["ETag"])
    # Other letters than the server has: were they fetched again, they would not be there at the end.
    place.part.write_bytes(b"x" * 1000)
    found = fetch(URL)
    assert found.file is not None and found.file.read_bytes() == b"x" * 1000 + CONTENT[1000:]


def test_another_version_of_a_begun_object_is_begun_again(
    bucket: s3fs.S3FileSystem, fetch: Callable[..., Fetched], tmp_path: Path
) -> None:
    place = place_of(tmp_path, URL)
    place.begin(bucket.info(URL)["ETag"])
    place.part.write_bytes(CONTENT[:1000])
    bucket.pipe_file(URL, CONTENT[::-1])
    found = fetch(URL)
    assert found.file is not None and found.file.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://videos/gone.mp4", "S3: no such object"),
        ("s3://nowhere/a.mp4", "S3: no such object"),
        ("s3://videos/some folder", "S3: a folder"),
        ("s3://videos", "S3: a folder"),
        ("s3://key:secret@videos/a.mp4", "user name or password"),
    ],
)
def test_what_is_no_object_is_a_verdict(
    bucket: s3fs.S3FileSystem, fetch: Callable[..., Fetched], url: str, reason: str
) -> None:
    assert reason in fetch(url).reason


def test_too_large_an_object_is_a_verdict(bucket: s3fs.S3FileSystem, fetch: Callable[..., Fetched]) -> None:
    assert "too large: 25600000 bytes" in fetch(URL, max_bytes=1000).reason


def test_wrong_credentials_are_a_verdict_that_names_no_secret(
    bucket: s3fs.S3FileSystem, fetch: Callable[..., Fetched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-key")
    assert fetch(URL).reason == "S3: access denied"


def test_no_server_is_a_verdict(
    bucket: s3fs.S3FileSystem, fetch: Callable[..., Fetched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert fetch(URL).reason.startswith("S3: ")
