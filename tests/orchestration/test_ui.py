"""The assets in the real UI: a Dagster server of its own, Chromium, clicks, and what DVC says afterwards."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from dvc.repo import Repo
from playwright.sync_api import Page, Playwright, Response

if TYPE_CHECKING:
    from tests.orchestration.conftest import Miniature

REPOSITORY = Path(__file__).parents[2]
SCREENSHOTS = REPOSITORY / "build" / "screenshots"
PAGE_MS = 90_000
START_SECONDS = 240
RUN_SECONDS = 240

RUNS = "{ runsOrError { ... on Runs { results { runId status assetSelection { path } } } } }"
CHECKS = """
{ assetNodes { assetKey { path } assetChecksOrError {
  ... on AssetChecks { checks { name executionForLatestMaterialization { status } } } } } }
"""
LAUNCH = """
mutation ($selector: JobOrPipelineSelector!) {
  launchRun(executionParams: {selector: $selector, runConfigData: {}}) {
    ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  }
}
"""
TERMINATE = "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }"


def _until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Waits for a condition; fails, saying what was waited for, when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.25)


@dataclass
class Server:
    """A running `dagster dev`."""

    port: int
    workspace: Path
    home: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def query(self, text: str, **variables: object) -> dict[str, Any]:
        """Data of a GraphQL answer."""
        body = json.dumps({"query": text, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = json.load(answer)
        assert "errors" not in content, content
        return content["data"]

    def runs(self) -> list[dict[str, Any]]:
        """Runs, the latest first."""
        return self.query(RUNS)["runsOrError"]["results"]

    def ready(self) -> bool:
        """Whether the code location is loaded."""
        try:
            return bool(self.query("{ assetNodes { id } }")["assetNodes"])
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def log(self) -> str:
        """The end of what the server wrote, runs included."""
        return (self.home / "server.log").read_text()[-8000:]

    def wait_for_run(self, seconds: float) -> str:
        """Status in which the latest run ended."""

        def ended() -> bool:
            runs = self.runs()
            return bool(runs) and runs[0]["status"] in ("SUCCESS", "FAILURE", "CANCELED")

        _until(ended, seconds, "the run to end")
        return self.runs()[0]["status"]


@contextmanager
def serve(workspace: Path, home: Path) -> Iterator[Server]:
    """`make ui` on a free port; afterwards its whole process group is gone and the port is closed."""
    home.mkdir()
    shutil.copy(REPOSITORY / "infra" / "dagster.yaml", home)
    server = Server(_free_port(), workspace, home)
    command = ["dagster", "dev", "-h", "127.0.0.1", "-p", str(server.port), "-m", "more4d_orchestration.definitions"]
    environment = {**os.environ, "DAGSTER_HOME": str(home), "MORE4D_ROOT": str(workspace), "OMP_NUM_THREADS": "1"}
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=REPOSITORY,
            env=environment,
            start_new_session=True,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _until(lambda: process.poll() is not None or server.ready(), START_SECONDS, "the server to start")
            assert process.poll() is None, server.log()
            yield server
        finally:
            _stop(process)
    _until(lambda: not _open(server.port), 20, f"port {server.port} to close")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends the server politely, and what is left of its group after a minute by force."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(60)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Watched:
    """A page, and what went wrong on it."""

    page: Page
    faults: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Notes console errors, exceptions, failed answers and requests that leave this machine."""
        self.page.on("console", lambda m: self.faults.append(f"console: {m.text}") if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        self.page.on("request", lambda request: self._local(request.url))
        self.page.on("response", self._answered)

    def _local(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")):
            self.faults.append(f"request: {url}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self.faults.append(f"{response.status}: {response.url}")


@contextmanager
def browse(playwright: Playwright) -> Iterator[Watched]:
    """A page in Chromium."""
    browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1800, "height": 1000})
    page.set_default_timeout(PAGE_MS)
    watched = Watched(page)
    watched.watch()
    try:
        yield watched
    finally:
        browser.close()


def materialize_all(server: Server, page: Page, name: str, seconds: float) -> None:
    """Opens the graph, checks that it shows every stage, clicks `Materialize all` and waits for success."""
    page.goto(f"{server.url}/asset-groups")
    _expand_groups(page)
    _photograph(server, page, f"{name}-before")
    page.get_by_role("button", name="Materialize all").click()
    status = server.wait_for_run(seconds)
    _photograph(server, page, f"{name}-after")
    assert status == "SUCCESS", server.log()


def _expand_groups(page: Page) -> None:
    """Groups are drawn closed at first."""
    page.locator("foreignObject").first.wait_for()
    page.mouse.click(1400, 800, button="right")
    page.get_by_role("menuitem", name="Expand all groups").click()


def _photograph(server: Server, page: Page, name: str) -> None:
    """A picture of the whole graph, once every stage is drawn; opened anew, the page fits the graph into view."""
    page.reload()
    for stage in yaml.safe_load((server.workspace / "dvc.yaml").read_text())["stages"]:
        page.locator("foreignObject").get_by_text(stage, exact=True).first.wait_for()
    page.wait_for_load_state("networkidle")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def _passed(server: Server) -> dict[str, str]:
    """`asset/check` -> how it ended on the latest materialization."""
    nodes = server.query(CHECKS)["assetNodes"]
    return {
        f"{'/'.join(node['assetKey']['path'])}/{check['name']}": check["executionForLatestMaterialization"]["status"]
        for node in nodes
        for check in node["assetChecksOrError"].get("checks", [])
    }


def _picture_widths(page: Page) -> list[int]:
    return page.evaluate("[...document.images].filter(i => i.src.startsWith('data:')).map(i => i.naturalWidth)")


@pytest.mark.timeout(1200)
def test_the_pipeline_materializes_by_a_click_shows_its_pictures_and_can_be_cancelled(
    miniature: "Miniature", tmp_path: Path, playwright: Playwright
) -> None:
    with serve(miniature.root, tmp_path / "home") as server, browse(playwright) as watched:
        materialize_all(server, watched.page, "miniature", RUN_SECONDS)
        assert set(_passed(server).values()) == {"SUCCEEDED"}
        assert "up to date" in miniature.dvc("status")

        watched.page.goto(f"{server.url}/assets/squares")
        watched.page.get_by_text("Show Markdown").last.click()
        _until(lambda: _picture_widths(watched.page) == [360], 30, "the training curve")
        watched.page.screenshot(path=SCREENSHOTS / "miniature-curve.png")

        miniature.set("squares", hang=True)
        _cancel_squares(server, miniature)
        assert watched.faults == []


def _cancel_squares(server: Server, miniature: "Miniature") -> None:
    """Starts the stage that hangs, cancels its run, and looks for what is left of it."""
    before, mark = miniature.lock(), miniature.root / "hanging"
    selector = {
        "pipelineName": "__ASSET_JOB",
        "repositoryName": "__repository__",
        "repositoryLocationName": "more4d_orchestration.definitions",
        "assetSelection": [{"path": ["squares"]}],
    }
    run = server.query(LAUNCH, selector=selector)["launchRun"]["run"]["runId"]
    _until(lambda: mark.exists() and len(mark.read_text().split()) == 2, RUN_SECONDS, "the stage to start")
    server.query(TERMINATE, id=run)
    assert server.wait_for_run(RUN_SECONDS) == "CANCELED"
    pids = mark.read_text().split()
    _until(lambda: not any(_running(pid) for pid in pids), 20, "the stage's processes to end")
    assert miniature.lock() == before


def _running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def lineage(tmp_path: Path) -> Path:
    """A workspace of its own with this repository's pipeline, code and base weights, and the preset `smoke`."""
    root = tmp_path / "workspace"
    root.mkdir()
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    made = {path for entry in stages.values() for out in entry["outs"] for path in out}
    read = {dep for entry in stages.values() for dep in entry["deps"]} - made
    for path in ("dvc.yaml", ".dvcignore", *sorted(read)):
        source, target = REPOSITORY / path, root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target, dirs_exist_ok=True) if source.is_dir() else shutil.copy(source, target)
    Repo.init(str(root), no_scm=True).close()
    preset = [sys.executable, "-m", "more4d.presets", "smoke", "--out", str(root / "params.yaml")]
    subprocess.run(preset, check=True)
    return root


@pytest.mark.timeout(1200)
def test_the_whole_lineage_materializes_by_a_click_and_dvc_agrees(
    lineage: Path, tmp_path: Path, playwright: Playwright
) -> None:
    with serve(lineage, tmp_path / "home") as server, browse(playwright) as watched:
        materialize_all(server, watched.page, "lineage", 900)
        assert set(_passed(server).values()) == {"SUCCEEDED"}
        assert watched.faults == []
    assert "up to date" in _dvc(lineage, "status")
    lock = (lineage / "dvc.lock").read_bytes()
    # The same stages, once as assets and once by `dvc repro`, from the same inputs: the same bytes.
    assert "Running" in _dvc(lineage, "repro", "--force", "--single-item", "clips", "strag")
    assert (lineage / "dvc.lock").read_bytes() == lock
    assert "Running" not in _dvc(lineage, "repro")


def _dvc(workspace: Path, *arguments: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(
        command, cwd=workspace, capture_output=True, text=True, env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
