"""What people do at the service's page and what they see there: steps and places for its tests.

Knows nothing of what a test is about. Always holds: a step ends when the page shows that it was taken.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.browser import Heard, Locator, Page, expect
from tests.sake_ray.pages.service.service_stub import ServiceStub

Box = list[float]


async def look_at(page: Page, stub: ServiceStub, hash_: str = "") -> None:
    """Open the page, whole; `hash_` is what a link has behind the address."""
    await page.goto(f"{stub.origin}/{hash_}")
    await ready(page)


async def ready(page: Page) -> None:
    """Wait until the page has begun."""
    await expect(page.locator("html")).to_have_attribute("data-ready", "yes")


async def choose_file(page: Page, path: Path) -> None:
    """Pick a picture's file."""
    await page.get_by_label("Choose a file").set_input_files(path)
    await expect(page.locator("#file-note")).to_contain_text(path.name)


async def choose_example(page: Page, number: int = 0) -> None:
    """Click an example; its picture is then in the form."""
    await page.locator(".example").nth(number).click()
    await expect(button(page, "Extract")).to_be_focused()
    await expect(page.get_by_alt_text("The picture chosen")).to_have_js_property("naturalWidth", 84)


async def write(page: Page, text: str) -> None:
    """Type the post."""
    await page.get_by_label("Post", exact=True).fill(text)


async def open_options(page: Page) -> None:
    """Unfold the options."""
    await page.get_by_text("Options", exact=True).click()
    await expect(page.get_by_label("May search")).to_be_visible()


async def extract(page: Page) -> None:
    """Ask for an answer."""
    await button(page, "Extract").click()


async def done(page: Page, panels: int = 1) -> None:
    """Wait until every answer is whole."""
    await expect(page.locator(".state")).to_have_text([re.compile("^Done: ")] * panels)


async def answered(page: Page, stub: ServiceStub) -> None:
    """Open the page, and have the first example answered."""
    await look_at(page, stub)
    await choose_example(page)
    await extract(page)
    await done(page)


def button(page: Page, name: str) -> Locator:
    """A button by its words."""
    return page.get_by_role("button", name=name, exact=True)


def names(page: Page) -> Locator:
    """The entities' names, a row each."""
    return page.locator("button.row .name")


def problem_of(page: Page, field: str) -> Locator:
    """Where a field's problem is told."""
    return page.locator(f'[data-field="{field}"] > .problem')


async def marks(page: Page) -> list[str]:
    """The marked pieces of the post, without their numbers."""
    found: list[str] = await page.locator(".post mark").evaluate_all(
        "(marks) => marks.map((mark) => mark.firstChild.textContent)"
    )
    return found


async def lit(page: Page) -> list[str]:
    """What is lit up: kind of element and number of the entity."""
    found: list[str] = await page.locator(".lit").evaluate_all(
        "(items) => items.map((item) => item.tagName.toLowerCase() + item.dataset.of).sort()"
    )
    return found


async def shown_boxes(page: Page) -> list[Box]:
    """The boxes as parts of the picture, or of the empty sheet in its place, as shown."""
    found: list[Box] = await page.locator(".layer rect.box").evaluate_all(
        """(boxes) => boxes.map((rect) => {
          const b = rect.getBoundingClientRect();
          const i = rect.closest('.frame').querySelector('img, .blank').getBoundingClientRect();
          return [(b.left - i.left) / i.width, (b.top - i.top) / i.height, (b.right - i.left) / i.width,
           (b.bottom - i.top) / i.height]; })"""
    )
    return found


async def downloaded(page: Page, name: str) -> tuple[str, Path]:
    """What a button hands over: the name it is given, and where it lies until the window is closed."""
    async with page.expect_download() as begun:
        await button(page, name).click()
    file = await begun.value
    return file.suggested_filename, Path(await file.path())


async def width_of(page: Page) -> int:
    """How wide the page is laid out; more than the window's width is a sideways scroll."""
    wide: int = await page.evaluate("document.documentElement.scrollWidth")
    return wide


def check_quiet(heard: Heard, stub: ServiceStub, *, refused: bool = False) -> None:
    """Nothing was logged and only the service asked; where it `refused` or broke off, the browser logs that alone."""
    said = [words for words in heard.problems if not (refused and words.startswith("Failed to load resource: "))]
    assert said == []
    check_asked(heard, stub.origin)


def check_asked(heard: Heard, origin: str) -> None:
    """A page asked its own service only, and was open at all."""
    asked = [address for address in heard.requests if not address.startswith(("blob:", "about:"))]
    assert asked, "the page was open"
    assert all(address.startswith(f"{origin}/") for address in asked), "a page asks its own service only"
