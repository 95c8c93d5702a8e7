"""What can be taken away from the service's page: a link that restores it, the result, the picture with its boxes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from sake_ray.data.miniworld import board_picture
from tests.browser import Browser, Heard, Page, expect, open_window
from tests.sake_ray.pages.service.page_steps import (
    answered,
    button,
    check_quiet,
    choose_example,
    choose_file,
    done,
    downloaded,
    extract,
    look_at,
    open_options,
    problem_of,
    write,
)
from tests.sake_ray.pages.service.service_stub import BOARD, POST, ServiceStub, policy, usual_result

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


async def test_a_link_restores_the_view(browser: Browser, page: Page, heard: Heard, stub: ServiceStub) -> None:
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    stub.policies = [policy("tuned"), policy("base")]
    await look_at(page, stub)
    await choose_example(page)
    await write(page, f"{POST} 🎉 & more #1")
    await open_options(page)
    await page.get_by_label("May search").uncheck()
    await page.get_by_label("Seed").fill("12")
    await page.get_by_label("Side by side with").select_option("none")
    await extract(page)
    await done(page)
    await button(page, "Copy link").click()
    await expect(page.locator(".told-link")).to_have_text("Copied.")
    link = await page.get_by_label("Link to this view").input_value()
    assert await page.evaluate("navigator.clipboard.readText()") == link
    assert link.startswith(f"{stub.origin}/#") and len(link) < 8_100
    async with open_window(browser, heard) as other:
        await look_at(other, stub, link.removeprefix(f"{stub.origin}/"))
        await expect(other.get_by_alt_text("The picture chosen")).to_have_js_property("naturalWidth", 84)
        await expect(other.get_by_label("Post", exact=True)).to_have_value(f"{POST} 🎉 & more #1")
        await expect(other.locator("#seed")).to_have_value("12")
        await expect(other.locator("#search")).not_to_be_checked()
        await expect(other.get_by_label("Policy", exact=True)).to_have_value("tuned")
        await expect(other.get_by_label("Side by side with")).to_have_value("")
    assert len(stub.asked) == 1, "a link asks for nothing by itself"
    check_quiet(heard, stub)


async def test_a_link_says_what_it_cannot_hold_and_can_be_copied_by_hand(
    browser: Browser, page: Page, heard: Heard, stub: ServiceStub, picture: Path
) -> None:
    await page.add_init_script("delete Navigator.prototype.clipboard")  # as where the page has no https
    await look_at(page, stub)
    await choose_file(page, picture)
    await write(page, "🎉" * 4_000)
    await extract(page)
    await done(page)
    told = page.locator(".told-link")
    await expect(told).to_contain_text("cannot hold your own picture")
    await button(page, "Copy link").click()
    await expect(told).to_contain_text("Copy the link from the field. It does not hold")
    await expect(told).to_contain_text("your own picture and the post (it is too long for one)")
    field = page.get_by_label("Link to this view")
    link = await field.input_value()
    assert await field.evaluate("(field) => field.selectionEnd - field.selectionStart") == len(link) < 8_100
    async with open_window(browser, heard) as other:
        await look_at(other, stub, link.removeprefix(f"{stub.origin}/"))
        await expect(problem_of(other, "image")).to_contain_text("choose it again")
        await expect(problem_of(other, "text")).to_contain_text("too long")
    check_quiet(heard, stub)


async def test_the_result_and_the_picture_with_boxes_can_be_downloaded(
    page: Page, heard: Heard, stub: ServiceStub
) -> None:
    await answered(page, stub)
    name, content = await downloaded(page, "Download JSON")
    assert name == "entities-a-ex-a.json"
    assert json.loads(content.read_bytes()) == usual_result(POST)
    name, content = await downloaded(page, "Download picture with boxes")
    assert name == "entities-a-ex-a.png"
    with Image.open(content) as saved:
        drawn = saved.convert("RGB")
    scale = drawn.width // 84
    assert drawn.size == (84 * scale, 84 * scale) and drawn.width >= 640
    plain = board_picture(BOARD).resize(drawn.size, Image.Resampling.NEAREST)
    middle = (14 * scale, 14 * scale)
    assert drawn.getpixel(middle) == plain.getpixel(middle), "inside a box the picture is as it was"
    assert drawn.getpixel((28 * scale, 45 * scale)) == (0xFF, 0x9F, 0x40), "an ORG's box is orange"
    check_quiet(heard, stub)
