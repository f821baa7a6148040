"""One Playwright for all tests of a process: a second one beside it refuses to start."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Playwright, sync_playwright


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    """Drives Debian's Chromium."""
    with sync_playwright() as running:
        yield running
