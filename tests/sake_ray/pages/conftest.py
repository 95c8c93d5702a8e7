"""What tests of pages share: one browser for all of them, and for each test a window of its own that is listened to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

if TYPE_CHECKING:  # tests without a browser need no Playwright
    from tests.browser import Browser, Heard, Page


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One for all tests of a process."""
    from tests.browser import open_browser

    async with open_browser() as opened:
        yield opened


@pytest.fixture
def heard() -> Heard:
    """What the test's window said and asked for."""
    from tests.browser import Heard

    return Heard()


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, heard: Heard) -> AsyncIterator[Page]:
    """An empty tab in a window as on a desk."""
    from tests.browser import open_window

    async with open_window(browser, heard) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def phone(browser: Browser, heard: Heard) -> AsyncIterator[Page]:
    """An empty tab as on a narrow phone."""
    from tests.browser import open_window

    async with open_window(
        browser, heard, width=360, height=740, device_scale_factor=2, is_mobile=True, has_touch=True
    ) as opened:
        yield opened
