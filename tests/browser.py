"""A browser for tests of pages: Chromium of the machine, without a window and without a network."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip


def find_browser() -> str | None:
    """The path of a Chromium or Chrome; ``None`` if this machine has none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def running() -> Iterator[Any]:
    """A browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=list(FLAGS))
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page, and what it did that a page should not: requests, errors, boxes that pop up."""

    page: Page
    requests: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Fail if it asked for anything but itself, or if anything went wrong."""
        loaded = [url for url in self.requests if not url.startswith(("blob:", "data:"))]
        assert len(loaded) == 1 and loaded[0].startswith("file:"), loaded
        assert not self.said, self.said

    def scroll(self) -> None:
        """Go down to the end, so that all that waits for a reader is drawn."""
        height = self.page.evaluate("document.documentElement.scrollHeight")
        for top in range(0, height, 400):
            self.page.evaluate(f"scrollTo(0, {top})")
            self.page.wait_for_timeout(30)
        self.page.wait_for_timeout(300)

    def answers(self) -> Page:
        """Go to the answers, and wait until they are there."""
        self.page.locator("#answers").scroll_into_view_if_needed()
        self.page.wait_for_selector("#answers .viewer[data-ready]")
        return self.page


def open_page(browser: Any, path: Path, **options: Any) -> Opened:
    """Open a file in a fresh window.

    Args:
        options: of Playwright's ``new_context``, such as ``color_scheme="dark"``.
    """
    page = browser.new_context(**options).new_page()
    opened = Opened(page)
    page.on("request", lambda request: opened.requests.append(request.url))
    page.on("console", lambda message: opened.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: opened.said.append(f"error: {error}"))

    def close(box: Any) -> None:
        opened.said.append(f"{box.type}: {box.message}")
        box.dismiss()

    page.on("dialog", close)
    page.goto(path.as_uri())
    return opened
