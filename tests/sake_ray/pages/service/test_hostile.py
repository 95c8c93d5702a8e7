"""Texts and links that would do harm if the service's page let them: they stay texts, and its policy holds besides."""

from __future__ import annotations

import pytest

from tests.browser import ConsoleMessage, Heard, Page, expect
from tests.sake_ray.pages.page_case import HOSTILE
from tests.sake_ray.pages.service.page_steps import (
    answered,
    check_quiet,
    look_at,
    problem_of,
    width_of,
)
from tests.sake_ray.pages.service.service_stub import Answer, ServiceStub, events_of, result_of, search_of

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


async def test_hostile_texts_are_text_and_send_nothing_anywhere(page: Page, heard: Heard, stub: ServiceStub) -> None:
    nasty = f"{HOSTILE} \u202egnp.exe\u202c مرحبا {'W' * 3_000}"
    post = f"Lodamo {nasty}"
    images = [
        {"width": 1, "height": 1, "thumbnail": address}
        for address in (
            "javascript:alert(1)", "https://example.com/spy.png", "data:image/svg+xml;base64,PHN2Zz4=",
            "data:image/png;base64,AA\" onerror=\"alert(1)", None,
        )
    ]  # fmt: skip
    searches = [search_of(nasty, nasty, status=nasty, reason=nasty, images=images)]
    result = result_of(post, [{"text": nasty, "type": nasty, "span": [0, 6], "box": [0, 0, 84, 84], "searched": True}],
                       searches=searches, reasoning=nasty)  # fmt: skip
    result["policy"] = {"name": nasty, "model": nasty, "checkpoint": nasty, "version": nasty}
    result["stop"], result["id"] = nasty, f"../{nasty}"
    stub.policies = [{"name": nasty, "model": nasty, "checkpoint": nasty, "version": nasty}]
    stub.examples = [{"id": "x", "text": post, "group": nasty, "note": nasty}]
    stub.script(Answer(events_of(result)))
    await answered(page, stub)
    found = await page.locator("#results").text_content() or ""
    assert found.count(HOSTILE) >= 6
    await expect(page.locator("#results img"), "the post's picture alone").to_have_count(1)
    await expect(page.locator("[onerror], body script, #results b, iframe")).to_have_count(0)
    assert await width_of(page) <= 1_280, "long words break"
    await page.set_viewport_size({"width": 360, "height": 740})
    assert await width_of(page) <= 360
    check_quiet(heard, stub)


async def test_a_hostile_link_fills_only_what_the_fields_allow(page: Page, heard: Heard, stub: ServiceStub) -> None:
    await look_at(
        page, stub, "#text=%3Cimg+src%3Dx%3E&example=nope&seed=-4&temperature=1e9&deadline_s=abc&policy=zz&a=%ff"
    )
    await expect(page.get_by_label("Post", exact=True)).to_have_value("<img src=x>")
    for field, value in (("seed", "0"), ("temperature", "0"), ("deadline_s", "60")):
        await expect(page.locator(f"#{field}")).to_have_value(value)
    await expect(problem_of(page, "image")).to_contain_text("does not have")
    assert stub.asked == []
    check_quiet(heard, stub)


def is_refusal(said: ConsoleMessage) -> bool:
    return "Content Security Policy" in said.text


async def test_the_pages_policy_stops_what_a_text_would_do_as_html_and_the_browser_says_so(
    page: Page, heard: Heard, stub: ServiceStub
) -> None:
    """Were a text ever to become HTML after all. It also shows that other tests hear what is refused."""
    await look_at(page, stub)
    check_quiet(heard, stub)
    for html in (
        '<img src="/assets/none.png" onerror="window.ran = true">',
        '<img src="https://pictures.example/spy.png">',
        '<iframe src="https://frames.example/"></iframe>',
        '<b style="position: fixed">x</b>',
    ):
        async with page.expect_console_message(is_refusal):
            await page.locator("#results").evaluate("(place, html) => { place.innerHTML = html; }", html)
    for script in ("fetch('https://example.com/')", "import('https://example.com/x.js')"):
        async with page.expect_console_message(is_refusal):
            assert await page.evaluate(f"{script}.then(() => 'came', () => 'refused')") == "refused"
    assert not await page.evaluate("Boolean(window.ran)")
    assert sum("Content Security Policy" in words for words in heard.problems) >= 6
