"""Pages in a real Chromium, drawn by its software renderer, that fail when they complain or reach for the network."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@contextmanager
def opened(
    browser: Browser, html: str, folder: Path, *, init_script: str = "", width: int = 1200, height: int = 900
) -> Iterator[Page]:
    """A page of this HTML, opened as a file; at the end, no console error and no request out may have occurred."""
    faults: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": height})
    page.on("console", lambda m: faults.append(f"console: {m.text}") if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on(
        "request",
        lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else faults.append(f"request: {r.url}"),
    )
    page.add_init_script(init_script)
    path = folder / "index.html"
    path.write_text(html, encoding="utf-8")
    page.goto(path.as_uri())
    try:
        yield page
    finally:
        page.close()
    assert faults == []


def until(page: Page, expression: str) -> None:
    """Waits until a JavaScript expression is true, at most 15 s.

    Playwright's own `wait_for_function` needs eval, which the pages' policy forbids.
    """
    deadline = time.monotonic() + 15
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"still not true after 15 s: {expression}"
        page.wait_for_timeout(30)
