"""A real browser for tests of pages: the machine's own Chromium without a window, driven by Playwright.

Knows nothing of the pages. Always holds: nothing is downloaded, the browser is $CHROMIUM or the first of `NAMES` on the
PATH; without it or without Playwright a test is skipped and says why; what a window's pages log as an error or a
warning, throw, ask the network for or are refused by their own policy (Chromium logs that) is kept in its `Heard`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

try:
    from playwright.async_api import Browser, ConsoleMessage, Locator, Page, async_playwright, expect
except ModuleNotFoundError:
    pytest.skip("no Playwright: install requirements/dev.txt (make setup)", allow_module_level=True)

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ABSENT = f"no Chromium: install one (Debian: apt-get install chromium), or set CHROMIUM; looked for {', '.join(NAMES)}"
# No sandbox: containers have none to give, and the pages are the test's own.
_OPTIONS = (
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
_WAIT_MS = 60_000.0  # hours would do: it only ends a test that hangs

expect.set_options(timeout=_WAIT_MS)


@dataclass
class Heard:
    """What the pages of a window said and asked for; addresses without those of data inside a page."""

    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def chromium() -> str | None:
    """The browser's program, or None."""
    named = os.environ.get("CHROMIUM")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """A browser; the test is skipped where there is none."""
    program = chromium()
    if program is None:
        pytest.skip(ABSENT)
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=program, args=_OPTIONS, timeout=_WAIT_MS)
        async with opened:
            yield opened


@asynccontextmanager
async def open_window(
    browser: Browser, heard: Heard, *, width: int = 1_280, height: int = 900, **options: Any
) -> AsyncIterator[Page]:
    """A window that shares nothing with others, with one empty tab; `options` are those of Playwright's context."""

    def listen(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            heard.problems.append(message.text)

    viewport: Any = {"width": width, "height": height}
    async with await browser.new_context(viewport=viewport, locale="en-US", **options) as context:
        context.set_default_timeout(_WAIT_MS)
        context.on("console", listen)
        context.on("weberror", lambda thrown: heard.problems.append(str(thrown.error)))
        context.on("request", lambda request: heard.requests.append(request.url))
        yield await context.new_page()


__all__ = ["Browser", "ConsoleMessage", "Heard", "Locator", "Page", "chromium", "expect", "open_browser", "open_window"]
