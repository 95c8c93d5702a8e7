"""What the service's page sends: the form, its options, problems beside their fields, dropped pictures, the token.

Each request is also read as the service reads it (the stub does).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.browser import Heard, Page, expect
from tests.sake_ray.pages.service.page_steps import (
    button,
    check_quiet,
    choose_example,
    done,
    extract,
    look_at,
    open_options,
    problem_of,
    ready,
    write,
)
from tests.sake_ray.pages.service.service_stub import POST, ServiceStub, png, problem

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


async def test_search_off_and_other_options_are_sent(page: Page, heard: Heard, stub: ServiceStub) -> None:
    await look_at(page, stub)
    await choose_example(page)
    await open_options(page)
    await page.get_by_label("May search").uncheck()
    await expect(page.get_by_label("Text searches")).to_be_disabled()
    await page.get_by_label("Seed").fill("7")
    await page.get_by_label("Temperature").fill("0.5")
    await extract(page)
    await done(page)
    assert stub.asked[0]["options"] == {
        "search": False, "seed": 7, "temperature": 0.5, "deadline_s": 60, "policy": "", "thumbnails": True,
    }  # fmt: skip
    deadline = page.get_by_label("Deadline in seconds")
    await deadline.fill("900")
    await page.get_by_text("Options", exact=True).click()
    await expect(deadline).to_be_hidden()
    await extract(page)
    await expect(problem_of(page, "options.deadline_s")).to_have_text("A number, at least 1 and at most 120.")
    await expect(deadline, "the folded options open for it").to_be_focused()
    assert len(stub.asked) == 1, "what cannot be right is not sent"
    check_quiet(heard, stub)


async def test_a_problem_stands_beside_the_field_it_names(
    page: Page, heard: Heard, stub: ServiceStub, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    stub.script(problem("unsupported", 415, "The picture cannot be read. Send a JPEG, PNG or WebP.", about="image"))
    stub.script(problem("invalid", 422, "The seed is too large.", about="options.seed"))
    await look_at(page, stub)
    await extract(page)
    image = problem_of(page, "image")
    await expect(image).to_have_text("Choose a picture, give its address, or click an example.")
    await expect(problem_of(page, "text")).to_have_text("Type or paste the post.")
    file = page.get_by_label("Choose a file")
    await file.set_input_files(tmp_path / "bad.png")
    await expect(page.locator("#file-note")).to_contain_text("cannot show it")
    await write(page, POST)
    await extract(page)
    await expect(image).to_have_text("The picture cannot be read. Send a JPEG, PNG or WebP.")
    await expect(image).to_have_role("alert")
    await expect(file).to_have_attribute("aria-invalid", "true")
    await expect(file).to_be_focused()
    await extract(page)
    await expect(problem_of(page, "options.seed")).to_have_text("The seed is too large.")
    await expect(image, "the old problem is gone").to_be_empty()
    check_quiet(heard, stub, refused=True)


async def test_a_picture_can_be_dropped_or_pasted(page: Page, heard: Heard, stub: ServiceStub) -> None:
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await look_at(page, stub)
    content = list(png(Image.new("RGB", (1, 1))))
    dropped = await page.evaluate_handle(
        """(content) => {
          const data = new DataTransfer();
          data.items.add(new File([Uint8Array.from(content)], 'one.png', { type: 'image/png' }));
          return data;
        }""",
        content,
    )
    await page.locator("#drop").dispatch_event("drop", {"dataTransfer": dropped})
    note, preview = page.locator("#file-note"), page.get_by_alt_text("The picture chosen")
    await expect(note).to_have_text("one.png")
    await expect(preview).to_have_js_property("naturalWidth", 1)
    await page.evaluate(
        """(content) => navigator.clipboard.write([
          new ClipboardItem({ 'image/png': new Blob([Uint8Array.from(content)], { type: 'image/png' }) })])""",
        list(png(Image.new("RGB", (2, 2)))),
    )
    await page.get_by_label("Post", exact=True).press("Control+v")
    await expect(note).to_have_text("a pasted picture")
    await expect(preview).to_have_js_property("naturalWidth", 2)
    check_quiet(heard, stub)


async def test_a_token_is_asked_for_once_and_again_when_it_is_refused(
    page: Page, heard: Heard, stub: ServiceStub
) -> None:
    stub.token = "secret-1"
    await page.goto(stub.origin)
    dialog, token = page.get_by_role("dialog"), page.get_by_label("Token", exact=True)
    await expect(token).to_be_focused()
    await expect(token).to_have_attribute("type", "password")
    await page.keyboard.insert_text("wrong")
    await page.keyboard.press("Enter")
    await expect(dialog.get_by_role("alert")).to_have_text("The service did not accept the token.")
    await page.keyboard.insert_text("secret-1")
    await page.keyboard.press("Enter")
    await ready(page)
    await expect(page.locator(".example img").first).to_have_js_property("naturalWidth", 84)
    kept = await page.evaluate("[Object.keys(sessionStorage), localStorage.length, document.cookie]")
    assert kept == [["token"], 0, ""]
    await choose_example(page)
    stub.token = "secret-2"
    await extract(page)
    await expect(token).to_be_focused()
    await page.keyboard.insert_text("secret-2")
    await page.keyboard.press("Enter")
    await done(page)
    assert len(stub.asked) == 1, "the request that was refused went again by itself"
    await page.reload()
    await ready(page)
    await expect(dialog, "known for as long as the tab is").to_be_hidden()
    check_quiet(heard, stub, refused=True)


async def test_a_service_that_refuses_at_first_is_asked_again(page: Page, heard: Heard, stub: ServiceStub) -> None:
    stub.token = "x"
    await page.goto(stub.origin)
    notice = page.locator("#notice")
    for _ in range(2):  # for the policies, and for the examples
        await button(page, "Not now").click()
    await expect(notice).to_contain_text("Send the service's token.")
    stub.token = ""
    await notice.get_by_role("button", name="Try again").click()
    await expect(page.locator(".example")).to_have_count(2)
    await expect(notice).to_be_empty()
    check_quiet(heard, stub, refused=True)
