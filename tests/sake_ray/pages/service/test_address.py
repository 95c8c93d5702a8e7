"""A picture's address on the service's page: the service fetches it, the page shows boxes without ever loading it."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.browser import Browser, Heard, Page, expect, open_window
from tests.sake_ray.pages.service.page_steps import (
    button,
    check_quiet,
    choose_example,
    choose_file,
    done,
    downloaded,
    extract,
    lit,
    look_at,
    names,
    problem_of,
    shown_boxes,
    width_of,
    write,
)
from tests.sake_ray.pages.service.service_stub import (
    POST,
    Answer,
    Gate,
    ServiceStub,
    entity,
    event,
    events_of,
    policy,
    problem,
    result_of,
)

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

ADDRESS = "https://pictures.example/harbour.jpg?size=large&of=1"
UNSEEN = "The service fetched this picture; it is not shown here."
ENTITIES = [
    entity(POST, "Lodamo", "PER", [0, 0, 320, 120]),
    entity(POST, "Bakedo", "ORG", [160, 60, 640, 240], searched=True),
]
RESULT = result_of(POST, ENTITIES, size=(640, 240))


async def give(page: Page, address: str = ADDRESS) -> None:
    await page.get_by_label("or the picture's address").fill(address)


async def test_the_service_fetches_the_picture_and_its_boxes_stand_on_an_empty_sheet(
    page: Page, heard: Heard, stub: ServiceStub
) -> None:
    fetched, written = Gate(), Gate()
    start, *others = events_of(RESULT)
    stub.script(Answer([b": fetching\n\n", fetched, start, written, *others]))
    await look_at(page, stub)
    await give(page, f"  {ADDRESS} ")
    await write(page, POST)
    await extract(page)
    origin, sheet = page.locator(".origin"), page.get_by_role("img", name=UNSEEN)
    await expect(origin).to_have_text(f"The service fetches the picture. {ADDRESS}")
    await expect(sheet, "its size is not known yet").to_be_hidden()
    fetched.set()
    await expect(sheet).to_be_visible()
    written.set()
    await done(page)
    assert stub.asked[0]["image_url"] == ADDRESS and "image" not in stub.asked[0]
    await expect(origin).to_have_text(f"{UNSEEN} {ADDRESS}")
    place = await sheet.bounding_box()
    assert place is not None and place["width"] / place["height"] == pytest.approx(640 / 240, rel=0.02)
    assert 200 < place["width"] <= 640
    assert await shown_boxes(page) == [
        pytest.approx([0, 0, 0.5, 0.5], abs=0.02), pytest.approx([0.25, 0.25, 1, 1], abs=0.02)
    ]  # fmt: skip
    await expect(page.locator("#results img")).to_have_count(0)
    await expect(button(page, "Download picture with boxes"), "there is none to draw on").to_have_count(0)
    _, content = await downloaded(page, "Download JSON")
    assert json.loads(content.read_bytes()) == RESULT
    check_quiet(heard, stub)


async def test_keys_reach_the_field_and_the_boxes_on_the_sheet(page: Page, heard: Heard, stub: ServiceStub) -> None:
    stub.script(Answer(events_of(RESULT)))
    await look_at(page, stub)
    await page.get_by_label("Choose a file").focus()
    await page.keyboard.press("Tab")
    await expect(page.get_by_label("or the picture's address")).to_be_focused()
    await page.keyboard.type(ADDRESS)
    await page.keyboard.press("Tab")
    await page.keyboard.type(POST)
    await page.keyboard.press("Control+Enter")
    await done(page)
    await page.get_by_role("button", name="Box of 1, Lodamo, PER").focus()
    assert await lit(page) == ["button0", "g0", "mark0"]
    await page.keyboard.press("ArrowRight")
    await expect(page.get_by_role("button", name="Box of 2, Bakedo, ORG")).to_be_focused()
    assert await lit(page) == ["button1", "g1", "mark1"]
    check_quiet(heard, stub)


async def test_a_refused_address_is_told_at_its_field_and_another_one_works(
    page: Page, heard: Heard, stub: ServiceStub
) -> None:
    stub.script(problem("invalid", 422, "address: it leads to where nothing may be fetched from", about="image_url"))
    await look_at(page, stub)
    await write(page, POST)
    field, told = page.get_by_label("or the picture's address"), problem_of(page, "image_url")
    for typed in (
        "harbour.jpg",
        "ftp://pictures.example/a.jpg",
        "javascript:alert(1)",
        f"https://a.example/{'x' * 2_048}",
    ):
        await give(page, typed)
        await expect(told).to_be_empty()
        await extract(page)
        await expect(told).to_have_text("Give a whole address, https://… or http://…, of at most 2,048 characters.")
    assert stub.asked == [], "what cannot be right is not sent"
    await give(page, "http://127.0.0.1/")
    await extract(page)
    await expect(told).to_have_text("address: it leads to where nothing may be fetched from")
    await expect(told).to_have_role("alert")
    await expect(field).to_have_attribute("aria-invalid", "true")
    await expect(field).to_be_focused()
    await expect(page.locator(".panel")).to_contain_text("why is told beside its field")
    await give(page)
    await expect(told).to_be_empty()
    await extract(page)
    await done(page)
    assert [asked["image_url"] for asked in stub.asked] == ["http://127.0.0.1/", ADDRESS]
    check_quiet(heard, stub, refused=True)


async def test_the_last_of_picture_and_address_counts(
    page: Page, heard: Heard, stub: ServiceStub, picture: Path
) -> None:
    await look_at(page, stub)
    await write(page, POST)
    field, preview = page.get_by_label("or the picture's address"), page.get_by_alt_text("The picture chosen")
    await choose_file(page, picture)
    await give(page)
    await expect(preview).to_be_hidden()
    await extract(page)
    await done(page)
    await choose_file(page, picture)
    await expect(field).to_have_value("")
    await extract(page)
    await done(page)
    await give(page)
    await choose_example(page)
    await expect(field).to_have_value("")
    await extract(page)
    await done(page)
    assert [sorted({"image", "image_url"} & set(asked)) for asked in stub.asked] == [
        ["image_url"],
        ["image"],
        ["image"],
    ]
    check_quiet(heard, stub)


async def test_past_answers_editing_and_links_keep_the_address(
    browser: Browser, page: Page, heard: Heard, stub: ServiceStub
) -> None:
    stub.policies = [policy("tuned"), policy("base")]
    await look_at(page, stub)
    await give(page)
    await write(page, POST)
    await extract(page)
    await done(page, panels=2)
    assert [asked["image_url"] for asked in stub.asked] == [ADDRESS, ADDRESS]
    await expect(page.locator(".told-link")).to_be_empty()
    await button(page, "Copy link").click()
    await expect(page.locator(".told-link")).to_have_text("Copied.")
    link = await page.get_by_label("Link to this view").input_value()
    await choose_example(page, 1)
    await extract(page)
    await done(page, panels=2)
    await page.locator(".past").last.click()
    await expect(page.locator(".origin").first).to_have_text(f"{UNSEEN} {ADDRESS}")
    await expect(names(page)).to_have_text(["Lodamo", "Bakedo", "Tiraso"] * 2)
    await button(page, "Edit this post").click()
    await expect(page.get_by_label("or the picture's address")).to_have_value(ADDRESS)
    await expect(page.get_by_alt_text("The picture chosen")).to_be_hidden()
    asked = len(stub.asked)
    async with open_window(browser, heard) as other:
        await look_at(other, stub, link.removeprefix(f"{stub.origin}/"))
        await expect(other.get_by_label("or the picture's address")).to_have_value(ADDRESS)
        await expect(other.get_by_label("Post", exact=True)).to_have_value(POST)
        await expect(other.locator("#status")).to_have_text("Restored from the link. Extract it.")
        assert len(stub.asked) == asked, "a link asks for nothing by itself"
        await extract(other)
        await done(other, panels=2)
    assert stub.asked[-1]["image_url"] == ADDRESS
    check_quiet(heard, stub)


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "data:text/html,x", "picture.png", "", "file:///etc/passwd"]
)
async def test_a_link_gives_no_address_but_one_of_the_web(
    page: Page, heard: Heard, stub: ServiceStub, address: str
) -> None:
    await look_at(page, stub, f"#text=a&address={address}")
    await expect(page.get_by_label("or the picture's address")).to_have_value("")
    await expect(problem_of(page, "image_url")).to_contain_text("none of the web's")
    check_quiet(heard, stub)


async def test_a_link_with_an_address_takes_the_place_of_the_picture_chosen(
    page: Page, heard: Heard, stub: ServiceStub
) -> None:
    await look_at(page, stub)
    await choose_example(page)
    await page.evaluate("(hash) => { location.hash = hash; }", f"text=a&address={quote(ADDRESS, safe='')}")
    await expect(page.get_by_label("or the picture's address")).to_have_value(ADDRESS)
    await expect(page.get_by_alt_text("The picture chosen")).to_be_hidden()
    await extract(page)
    await done(page)
    assert stub.asked[0]["image_url"] == ADDRESS
    await expect(page.locator(".frame img"), "its boxes are of another picture").to_have_count(0)
    check_quiet(heard, stub)


async def test_a_picture_that_shows_itself_as_huge_or_nothing_breaks_no_page(
    phone: Page, heard: Heard, stub: ServiceStub
) -> None:
    start = {"id": "x", "policy": policy("a"), "image": {"width": 32_000, "height": 1_000}}
    result = result_of(POST, [entity(POST, "Lodamo", "PER", [0, 0, 16_000, 1_000])], size=(32_000, 1_000))
    stub.script(Answer([event("start", start), *events_of(result)[1:]]))
    await look_at(phone, stub)
    await give(phone, f"https://pictures.example/{'long-name-' * 60}.jpg")
    await write(phone, POST)
    await extract(phone)
    await done(phone)
    assert await width_of(phone) == 360
    assert await shown_boxes(phone) == [pytest.approx([0, 0, 0.5, 1], abs=0.02)]
    check_quiet(heard, stub)
