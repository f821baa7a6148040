"""What all tests of a process share: one Playwright, beside which a second one refuses to start, and one Slurm cluster."""

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Playwright, sync_playwright

from tests.slurm_cluster import PACKAGES, Cluster, missing_tools, running_cluster


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    """Drives Debian's Chromium."""
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A real Slurm cluster of two nodes; SLURM_CONF points all tools of this process at it."""
    missing = missing_tools()
    if os.geteuid() != 0:
        missing.append("root, which Slurm's daemons are started by")
    if missing:
        what = f"a Slurm cluster needs {', '.join(missing)}: {PACKAGES}"
        pytest.fail(what) if os.environ.get("CI") else pytest.skip(what)
    with running_cluster() as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running
