"""What an answer on the service's page looks like: what lights up, spans, two policies, keys, past answers, a phone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import Heard, Locator, Page, expect
from tests.sake_ray.pages.service.page_steps import (
    answered,
    button,
    check_quiet,
    choose_example,
    choose_file,
    done,
    extract,
    lit,
    look_at,
    marks,
    names,
    open_options,
    shown_boxes,
    width_of,
    write,
)
from tests.sake_ray.pages.service.service_stub import (
    POST,
    Answer,
    ServiceStub,
    entity,
    events_of,
    policy,
    result_of,
)

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


async def test_hovering_or_focusing_any_of_the_three_lights_up_all_three(
    page: Page, heard: Heard, stub: ServiceStub
) -> None:
    await answered(page, stub)
    all_three = ["button1", "g1", "mark1"]
    for selector in ("button.row[data-of='1']", ".post mark[data-of='1']", ".layer g[data-of='1'] rect.box"):
        await page.locator("h1").hover()
        assert await lit(page) == []
        await page.locator(selector).hover()
        assert await lit(page) == all_three, selector
    await page.locator("h1").hover()
    for selector in ("button.row", ".post mark", ".layer g"):
        await page.locator(selector).first.focus()
        assert await lit(page) == ["button0", "g0", "mark0"], selector
        await page.keyboard.press("ArrowRight")
        assert await lit(page) == all_three, "arrows move within a group"
    await page.keyboard.press("Enter")
    box = page.get_by_role("button", name="Box of 2, Bakedo, ORG")
    await box.blur()
    assert await lit(page) == all_three, "a pinned entity stays lit"
    await expect(box).to_have_attribute("aria-pressed", "true")
    check_quiet(heard, stub)


async def test_spans_count_code_points_and_may_overlap(
    page: Page, heard: Heard, stub: ServiceStub, picture: Path
) -> None:
    text = "🎉👩‍🚀 " * 100 + "Lodamo 🇩🇪 city hall 𝔅akedo" + "🧪" * 40
    assert len(text) > 400
    start = text.index("Lodamo")
    entities = [
        entity(text, "Lodamo 🇩🇪 city hall", "LOC", [0, 0, 28, 28]),
        entity(text, "Lodamo", "PER", [28, 0, 56, 28]),
        entity(text, "city hall 𝔅akedo", "ORG", None),
        entity(text, "𝔅akedo", "MISC", None),
        {**entity(text, "gone", "PER", None), "span": [len(text) - 1, len(text) + 5]},
        {**entity(text, "backwards", "PER", None), "span": [9, 3]},
    ]
    stub.script(Answer(events_of(result_of(text, entities))))
    await look_at(page, stub)
    await choose_file(page, picture)
    await write(page, text)
    await expect(page.locator("#text-count")).to_have_text(f"{len(text)} of at most 4,000 characters")
    await extract(page)
    await done(page)
    assert stub.asked[0]["text"] == text
    assert await marks(page) == ["Lodamo", " 🇩🇪 ", "city hall", " ", "𝔅akedo"]
    covering = await page.locator(".post mark").evaluate_all("(marks) => marks.map((mark) => mark.dataset.of)")
    assert covering == ["0 1", "0", "0 2", "2", "2 3"]
    post = page.locator(".post")
    whole = await post.evaluate(
        "(post) => { const copy = post.cloneNode(true);"
        " copy.querySelectorAll('sup').forEach((sup) => sup.remove()); return copy.textContent; }"
    )
    assert whole == text, "marks take nothing from the post and add nothing"
    assert await post.evaluate("(post) => post.firstChild.textContent") == text[:start]
    await page.locator("button.row[data-of='2']").hover()
    lit_marks = await page.locator("mark.lit").evaluate_all("(all) => all.map((mark) => mark.firstChild.textContent)")
    assert lit_marks == ["city hall", " ", "𝔅akedo"]
    check_quiet(heard, stub)


async def test_two_policies_stand_side_by_side_with_their_differences_marked(
    page: Page, heard: Heard, stub: ServiceStub
) -> None:
    stub.policies = [policy("tuned", 40), policy("base", 0)]
    first = [
        entity(POST, "Lodamo", "PER", [0, 0, 28, 28]),
        entity(POST, "Bakedo", "ORG", [28, 28, 56, 56], searched=True),
        entity(POST, "Tiraso", "LOC", None),
    ]
    second = [entity(POST, "Bakedo", "PER", [0, 56, 28, 84]), entity(POST, "Lodamo", "PER", [1, 0, 28, 27])]
    stub.script(Answer(events_of(result_of(POST, first, name="tuned"))), name="tuned")
    stub.script(Answer(events_of(result_of(POST, second, name="base"))), name="base")
    await look_at(page, stub)
    await choose_example(page)
    await extract(page)
    await done(page, panels=2)
    assert sorted(asked["options"]["policy"] for asked in stub.asked) == ["base", "tuned"]
    assert stub.asked[0]["image"] == stub.asked[1]["image"]
    panels = page.locator(".panel")
    wanted = [
        [[], ["type: base says PER", "box: base has it elsewhere"], ["only here"]],
        [["type: tuned says ORG", "box: tuned has it elsewhere"], []],
    ]
    for panel, notes in enumerate(wanted):
        rows = panels.nth(panel).locator(".entities > li")
        await expect(rows).to_have_count(len(notes))
        for row, texts in enumerate(notes):
            await expect(rows.nth(row).locator(".difference")).to_have_text(texts)
    await expect(page.locator(".summary")).to_contain_text("differ on 3 of 5 entities")

    async def lefts() -> list[float]:
        found: list[float] = await panels.evaluate_all("(all) => all.map((one) => one.getBoundingClientRect().left)")
        return found

    left, right = await lefts()
    assert right > left
    await page.set_viewport_size({"width": 390, "height": 844})
    left, right = await lefts()
    assert left == right, "one column on a phone"
    await page.get_by_label("Side by side with").select_option("none")
    await extract(page)
    await done(page)
    check_quiet(heard, stub)


async def test_no_sideways_scroll_on_a_phone_and_boxes_stay_in_the_picture(
    phone: Page, heard: Heard, stub: ServiceStub
) -> None:
    stub.policies = [policy("tuned"), policy("base")]
    await look_at(phone, stub)
    await open_options(phone)
    assert await width_of(phone) == 360
    await choose_example(phone)
    await extract(phone)
    await done(phone, panels=2)
    await phone.locator("details").evaluate_all("(all) => all.forEach((one) => { one.open = true; })")
    assert await width_of(phone) == 360
    boxes = await shown_boxes(phone)
    assert len(boxes) == 4
    for shown in boxes:
        assert all(-0.02 <= side <= 1.02 for side in shown)
    check_quiet(heard, stub)


async def test_in_the_dark_the_page_is_dark_and_in_print_there_is_no_form(
    page: Page, heard: Heard, stub: ServiceStub
) -> None:
    await look_at(page, stub)
    body, form = page.locator("body"), page.locator("#ask")
    await expect(body).to_have_css("background-color", "rgb(255, 255, 255)")
    await page.emulate_media(color_scheme="dark")
    await expect(body).to_have_css("background-color", "rgb(13, 17, 23)")
    await expect(body).to_have_css("color", "rgb(230, 237, 243)")
    await page.emulate_media(media="print")
    await expect(form).to_be_hidden()
    check_quiet(heard, stub)


async def test_keys_alone_can_run_an_example_and_walk_its_entities(page: Page, heard: Heard, stub: ServiceStub) -> None:
    await look_at(page, stub)

    async def tab_to(wanted: Locator) -> None:
        for _ in range(40):
            await page.keyboard.press("Tab")
            if await wanted.evaluate("(one) => one === document.activeElement && one.matches(':focus-visible')"):
                return
        raise AssertionError(f"Tab does not reach {wanted}")

    await tab_to(page.get_by_role("link", name="Skip to the form"))
    await page.keyboard.press("Enter")
    await expect(page.locator("#ask")).to_be_focused()
    await tab_to(page.locator(".example").first)
    await page.keyboard.press("Enter")
    await expect(button(page, "Extract")).to_be_focused()
    await page.keyboard.press("Enter")
    await done(page)
    status = page.locator("#status")
    await expect(status).to_have_text("Done: 3 entities, 2 searched.")
    await expect(status).to_have_role("status")
    await tab_to(page.locator("button.row").first)
    await page.keyboard.press("ArrowDown")
    await expect(page.locator("button.row:focus .name")).to_have_text("Bakedo")
    assert await lit(page) == ["button1", "g1", "mark1"]
    controls = page.locator("button, input, select, textarea, [role=button]")
    unnamed = await controls.evaluate_all(
        "(all) => all.filter((item) =>"
        " !(item.textContent.trim() || item.getAttribute('aria-label') || item.labels?.length)).length"
    )
    assert unnamed == 0, "every control has a name"
    check_quiet(heard, stub)


async def test_past_answers_can_be_looked_at_again_and_edited(page: Page, heard: Heard, stub: ServiceStub) -> None:
    await look_at(page, stub)
    for number in (0, 1):
        await choose_example(page, number)
        await extract(page)
        await done(page)
    await expect(names(page)).to_have_text(["Tiraso"])
    past = page.locator(".past")
    await past.nth(1).click()
    await expect(names(page)).to_have_text(["Lodamo", "Bakedo", "Tiraso"])
    for number, current in enumerate(("false", "true")):
        await expect(past.nth(number)).to_have_attribute("aria-current", current)
    await button(page, "Edit this post").click()
    await expect(page.get_by_label("Post", exact=True)).to_have_value(POST)
    for _ in range(30):
        await page.keyboard.press("Control+Enter")
        await done(page)
    assert len(stub.asked) == 32
    await expect(past, "and no more are kept").to_have_count(30)
    check_quiet(heard, stub)
