"""The service's page in a real browser, against a scripted service: what people see, reach by keys and take away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from PIL import Image

from sake_ray.data.miniworld import board_picture
from sake_ray.pages.service_files import INDEX, SECURITY_HEADERS, service_files
from tests.browser import Page, needs_chromium, open_browser
from tests.sake_ray.pages.page_case import HOSTILE
from tests.sake_ray.pages.service_stub import (
    BOARD,
    POST,
    Answer,
    Drop,
    Gate,
    ServiceStub,
    entity,
    event,
    events_of,
    png,
    policy,
    problem,
    result_of,
    search_of,
    serve,
    usual_result,
)

pytestmark = [pytest.mark.integration, needs_chromium, pytest.mark.asyncio(loop_scope="module")]

READY = "document.documentElement.dataset.ready === 'yes'"
DONE = "[...document.querySelectorAll('.state')].every((state) => state.textContent.startsWith('Done'))" + (
    " && document.querySelector('.state')"
)
ROWS = "[...document.querySelectorAll('button.row')].map((row) => row.querySelector('.name').textContent)"
MARKS = "[...document.querySelectorAll('.post mark')].map((mark) => mark.firstChild.textContent)"
LIT = "[...document.querySelectorAll('.lit')].map((item) => item.tagName.toLowerCase() + item.dataset.of).sort()"
FOCUS = "document.activeElement.id || document.activeElement.className"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub() -> AsyncIterator[ServiceStub]:
    async with serve(ServiceStub()) as serving:
        yield serving


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Page]:
    async with open_browser() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Page, stub: ServiceStub) -> Page:
    """The tab, empty, and a stub that has forgotten the test before."""
    await browser.size(1_280, 900)
    await browser.open("about:blank")
    stub.reset()
    browser.problems.clear()
    browser.requests.clear()
    return browser


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    board_picture(BOARD).save(tmp_path / "board.png")
    return tmp_path / "board.png"


async def look_at(page: Page, stub: ServiceStub, hash_: str = "") -> None:
    await page.open(f"{stub.origin}/{hash_}")
    if await page.run("sessionStorage.length"):
        await page.run("sessionStorage.clear()")
        await page.open("about:blank")
        await page.open(f"{stub.origin}/{hash_}")
    await page.until(f"{READY} || document.querySelector('dialog[open]')")


async def choose_file(page: Page, path: Path) -> None:
    found = await page.send("Runtime.evaluate", expression="document.getElementById('file')")
    await page.send("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])
    await page.until(
        "!document.getElementById('preview').hidden && document.getElementById('preview').naturalWidth > 0"
    )


async def write(page: Page, text: str, place: str = "text") -> None:
    await page.run(f"document.getElementById('{place}').focus(), document.getElementById('{place}').select()")
    await page.send("Input.insertText", text=text)


async def key(page: Page, name: str, modifiers: int = 0) -> None:
    codes = {"Enter": 13, " ": 32, "Tab": 9, "ArrowDown": 40, "ArrowRight": 39}
    text = {"Enter": "\r", " ": " "}.get(name)
    printed = {} if text is None or modifiers else {"text": text}
    told = {"key": name, "windowsVirtualKeyCode": codes[name], "modifiers": modifiers}
    await page.send("Input.dispatchKeyEvent", type="keyDown", **told, **printed)
    await page.send("Input.dispatchKeyEvent", type="keyUp", **told)


async def point_at(page: Page, selector: str) -> None:
    place = await page.run(
        f"(() => {{ const item = document.querySelector({json.dumps(selector)});"
        " item.scrollIntoView({block: 'center'}); const r = item.getBoundingClientRect();"
        " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    await page.send("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])


async def extract(page: Page) -> None:
    await page.run("document.getElementById('extract').click()")


async def choose_example(page: Page, number: int = 0) -> None:
    await page.run(f"document.querySelectorAll('.example')[{number}].click()")
    await page.until("document.getElementById('preview').naturalWidth > 0 && document.activeElement.id === 'extract'")


def check_quiet(page: Page, stub: ServiceStub) -> None:
    assert page.problems == []
    asked = [address for address in page.requests if not address.startswith(("blob:", "about:"))]
    assert asked, "the page was open"
    assert all(address.startswith(f"{stub.origin}/") for address in asked), "a page asks its own service only"


async def shown_boxes(page: Page) -> list[list[float]]:
    """The boxes as parts of the picture as shown."""
    boxes: list[list[float]] = await page.run(
        """[...document.querySelectorAll('.layer rect.box')].map((rect) => {
          const b = rect.getBoundingClientRect();
          const i = rect.closest('.frame').querySelector('img').getBoundingClientRect();
          return [(b.left - i.left) / i.width, (b.top - i.top) / i.height, (b.right - i.left) / i.width,
           (b.bottom - i.top) / i.height]; })"""
    )
    return boxes


async def test_an_answer_grows_while_it_is_written_and_ends_with_rows_spans_and_boxes_in_place(
    page: Page, stub: ServiceStub, picture: Path
) -> None:
    result = usual_result(POST)
    steps: list[bytes | Gate | Drop] = list(events_of(result, pieces=12))
    written = next(i for i, step in enumerate(steps) if isinstance(step, bytes) and b"event: turn" in step)
    first, last = Gate(), Gate()
    steps.insert(written, first)
    steps.insert(len(steps) - 2, last)  # before the last turn and the result
    stub.script(Answer(steps))
    await look_at(page, stub)
    await choose_file(page, picture)
    await write(page, POST)
    await key(page, "Enter", modifiers=2)
    await page.until("document.querySelector('.live')?.textContent.includes('</text_search>')")
    assert await page.run("document.querySelectorAll('.turn').length") == 1, "text is there before its turn has ended"
    assert await page.run("document.querySelector('.state').textContent") == "Writing turn 1 …"
    first.set()
    await page.until("document.querySelectorAll('.row.unfinished').length === 3")
    assert await page.run("document.querySelectorAll('.layer g').length") == 0, "boxes wait for the whole answer"
    last.set()
    await page.until(DONE)
    assert await page.run(ROWS) == [one["text"] for one in result["entities"]]
    assert await page.run(MARKS) == [POST[slice(*one["span"])] for one in result["entities"]]
    expected = [[side / 84 for side in one["box"]] for one in result["entities"] if one["box"]]
    for shown, wanted in zip(await shown_boxes(page), expected, strict=True):
        assert shown == pytest.approx(wanted, abs=0.02)
    badges = await page.run("[...document.querySelectorAll('button.row .badge')].map((badge) => badge.textContent)")
    assert badges == ["searched" if one["searched"] else "known" for one in result["entities"]]
    assert await page.run("document.querySelectorAll('button.row .badge svg').length") == 3, "and not by colour alone"
    told = await page.run("document.querySelector('.trace').textContent")
    assert "Bakedo is a ORG , a green cross" in told
    assert "failed: timeout" in told
    assert await page.run("document.querySelector('.thumbnails img').naturalWidth") == 56
    assert stub.asked[0]["text"] == POST
    assert stub.asked[0]["options"] == {
        "search": True, "text_searches": 2, "image_searches": 1, "seed": 0, "temperature": 0, "deadline_s": 60,
        "policy": "", "thumbnails": True,
    }  # fmt: skip
    check_quiet(page, stub)


async def test_hovering_or_focusing_any_of_the_three_lights_up_all_three(page: Page, stub: ServiceStub) -> None:
    await look_at(page, stub)
    await choose_example(page)
    await extract(page)
    await page.until(DONE)
    all_three = ["button1", "g1", "mark1"]
    for selector in ("button.row[data-of='1']", ".post mark[data-of='1']", ".layer g[data-of='1'] rect.box"):
        await point_at(page, "h1")
        assert await page.run(LIT) == []
        await point_at(page, selector)
        assert await page.run(LIT) == all_three, selector
    await point_at(page, "h1")
    for selector in ("button.row", ".post mark", ".layer g"):
        await page.run(f"document.querySelector({json.dumps(selector)}).focus()")
        assert await page.run(LIT) == ["button0", "g0", "mark0"], selector
        await key(page, "ArrowRight")
        assert await page.run(LIT) == all_three, "arrows move within a group"
    await key(page, "Enter")
    await page.run("document.activeElement.blur()")
    assert await page.run(LIT) == all_three, "a pinned entity stays lit"
    assert await page.run("document.querySelector('.layer g[data-of=\"1\"]').getAttribute('aria-pressed')") == "true"
    check_quiet(page, stub)


async def test_search_off_and_other_options_are_sent(page: Page, stub: ServiceStub) -> None:
    await look_at(page, stub)
    await choose_example(page)
    await page.run("document.getElementById('options').open = true, document.getElementById('search').click()")
    await write(page, "7", "seed")
    await write(page, "0.5", "temperature")
    await extract(page)
    await page.until(DONE)
    assert stub.asked[0]["options"] == {
        "search": False, "seed": 7, "temperature": 0.5, "deadline_s": 60, "policy": "", "thumbnails": True,
    }  # fmt: skip
    await write(page, "900", "deadline_s")
    await page.run("document.getElementById('options').open = false")
    await extract(page)
    told = await page.run("document.querySelector('[data-field=\"options.deadline_s\"] .problem').textContent")
    assert told == "A number, at least 1 and at most 120."
    assert await page.run(FOCUS) == "deadline_s", "the folded options open for it"
    assert len(stub.asked) == 1, "what cannot be right is not sent"


async def test_a_problem_stands_beside_the_field_it_names(page: Page, stub: ServiceStub, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    stub.script(problem("unsupported", 415, "The picture cannot be read. Send a JPEG, PNG or WebP.", about="image"))
    stub.script(problem("invalid", 422, "The seed is too large.", about="options.seed"))
    await look_at(page, stub)
    await extract(page)
    missing = await page.run("['image', 'text'].map((id) => document.getElementById(`${id}-problem`).textContent)")
    assert missing == ["Choose a picture, or click an example.", "Type or paste the post."]
    found = await page.send("Runtime.evaluate", expression="document.getElementById('file')")
    await page.send("DOM.setFileInputFiles", files=[str(tmp_path / "bad.png")], objectId=found["result"]["objectId"])
    await page.until("document.getElementById('file-note').textContent.includes('cannot show it')")
    await write(page, POST)
    await extract(page)
    await page.until("document.getElementById('image-problem').textContent")
    told = await page.run("document.getElementById('image-problem').textContent")
    assert told == "The picture cannot be read. Send a JPEG, PNG or WebP."
    assert await page.run("document.getElementById('image-problem').getAttribute('role')") == "alert"
    assert await page.run("document.getElementById('file').getAttribute('aria-invalid')") == "true"
    assert await page.run(FOCUS) == "file"
    await extract(page)
    await page.until("document.querySelector('[data-field=\"options.seed\"] .problem').textContent")
    assert await page.run("document.getElementById('image-problem').textContent") == "", "the old problem is gone"


async def test_a_broken_connection_loses_nothing_and_try_again_works(page: Page, stub: ServiceStub) -> None:
    events = events_of(usual_result(POST))
    stub.script(Answer([*events[:4], Drop()]), Answer(events[:6]))
    await look_at(page, stub)
    await choose_example(page)
    await extract(page)
    await page.until("document.querySelector('.panel [role=alert] .again')")
    told = await page.run("document.querySelector('.panel [role=alert]').textContent")
    assert "The connection broke before the answer was whole." in told
    assert "may have been restarted" in told
    assert await page.run("document.getElementById('text').value") == POST
    await page.run("document.querySelector('.again').click()")
    await page.until("document.querySelector('.alert p')?.textContent.startsWith('The connection ended before')")
    await page.run("document.querySelector('.again').click()")
    await page.until(DONE)
    assert await page.run(ROWS) == ["Lodamo", "Bakedo", "Tiraso"]
    assert await page.run("document.querySelectorAll('.turn').length") == 3, "nothing of the broken try is left"
    assert stub.asked[0] == stub.asked[1]


async def test_a_busy_service_says_when_to_try_again(page: Page, stub: ServiceStub) -> None:
    stub.script(problem("busy", 429, "Too many requests wait.", retry_after=7))
    stub.script(problem("unavailable", 503, "No engine serves.", retry_after=30))
    stub.script(
        Answer([event("error", {"type": "urn:sake-ray:problem:deadline", "status": 504, "detail": "60 s are over."})])
    )
    await look_at(page, stub)
    await choose_example(page)
    await extract(page)
    for words in (
        "The service is busy. Too many requests wait. Try again in 7 seconds.",
        "The service is not available right now. No engine serves. Try again in 30 seconds.",
        "The deadline passed before the answer was whole. 60 s are over.",
    ):
        await page.until(f"document.querySelector('.panel .alert p')?.textContent === {json.dumps(words)}")
        await page.run("document.querySelector('.again').click()")
    await page.until(DONE)


async def test_cancel_ends_the_request_and_a_restart_begins_anew(page: Page, stub: ServiceStub) -> None:
    gate, events = Gate(), events_of(usual_result(POST))
    stub.script(Answer([*events[:5], gate]))
    stub.script(Answer([*events[:5], event("restart", {"reason": "its engine was lost"}), gate, *events]))
    await look_at(page, stub)
    await choose_example(page)
    await extract(page)
    await page.until("document.querySelector('.live')")
    await page.run("document.getElementById('cancel').focus()")
    await key(page, "Enter")
    await page.until("document.querySelector('.state').textContent === 'Cancelled.'")
    for _ in range(100):
        if stub.aborted:
            break
        await asyncio.sleep(0.02)
    assert stub.aborted == 1, "the service notices"
    assert await page.run("document.getElementById('cancel').hidden")
    assert await page.run(FOCUS) == "extract", "the focus does not vanish with the button"
    await page.run("document.querySelector('.again').click()")
    await page.until("document.querySelector('.state').textContent === 'Began anew: its engine was lost'")
    assert await page.run("document.querySelectorAll('.turn').length") == 0, "what came before is void"
    gate.set()
    await page.until(DONE)
    assert await page.run("document.querySelectorAll('.turn').length") == 3
    check_quiet(page, stub)


async def test_an_episode_without_an_answer_says_why(page: Page, stub: ServiceStub) -> None:
    result = {**result_of(POST, []), "stop": "malformed"}
    result["turns"][0] |= {"action": "malformed", "malformed": "bad_json", "text": "<answer>[{", "reasoning": ""}
    stub.script(Answer(events_of(result)), Answer(events_of(result_of(POST, []))))
    await look_at(page, stub)
    await choose_example(page)
    for words in ("No entities: the last turn could not be read as an answer.", "The answer names no entity."):
        await extract(page)
        await page.until(f"document.querySelector('.nothing')?.textContent === {json.dumps(words)}")
        await page.until("document.getElementById('cancel').hidden")
    assert await page.run("document.querySelectorAll('.past').length") == 2
    check_quiet(page, stub)


async def test_spans_count_code_points_and_may_overlap(page: Page, stub: ServiceStub, picture: Path) -> None:
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
    count = await page.run("document.getElementById('text-count').textContent")
    assert count == f"{len(text)} of at most 4,000 characters"
    await extract(page)
    await page.until(DONE)
    assert await page.run(MARKS) == ["Lodamo", " 🇩🇪 ", "city hall", " ", "𝔅akedo"]
    covering = await page.run("[...document.querySelectorAll('.post mark')].map((mark) => mark.dataset.of)")
    assert covering == ["0 1", "0", "0 2", "2", "2 3"]
    whole = await page.run(
        "(() => { const post = document.querySelector('.post').cloneNode(true);"
        " post.querySelectorAll('sup').forEach((sup) => sup.remove()); return post.textContent; })()"
    )
    assert whole == text, "marks take nothing from the post and add nothing"
    before = await page.run("document.querySelector('.post').firstChild.textContent")
    assert before == text[:start]
    await point_at(page, "button.row[data-of='2']")
    lit = await page.run("[...document.querySelectorAll('mark.lit')].map((mark) => mark.firstChild.textContent)")
    assert lit == ["city hall", " ", "𝔅akedo"]
    check_quiet(page, stub)


async def test_hostile_texts_are_text_and_send_nothing_anywhere(page: Page, stub: ServiceStub) -> None:
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
    await look_at(page, stub)
    await choose_example(page)
    await extract(page)
    await page.until(DONE)
    found = await page.run("document.querySelector('#results').textContent")
    assert found.count(HOSTILE) >= 6
    assert await page.run("document.querySelectorAll('#results img').length") == 1, "the post's picture alone"
    assert await page.run("document.querySelectorAll('[onerror], body script, #results b, iframe').length") == 0
    assert await page.run("document.documentElement.scrollWidth <= innerWidth"), "long words break"
    await page.size(360, 740)
    assert await page.run("document.documentElement.scrollWidth <= 360")
    check_quiet(page, stub)


async def test_two_policies_stand_side_by_side_with_their_differences_marked(page: Page, stub: ServiceStub) -> None:
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
    await page.until(DONE)
    assert sorted(asked["options"]["policy"] for asked in stub.asked) == ["base", "tuned"]
    assert stub.asked[0]["image"] == stub.asked[1]["image"]
    marked = await page.run(
        "[...document.querySelectorAll('.panel')].map((panel) =>"
        " [...panel.querySelectorAll('.entities > li')].map((row) =>"
        " [...row.querySelectorAll('.difference')].map((difference) => difference.textContent)))"
    )
    assert marked == [
        [[], ["type: base says PER", "box: base has it elsewhere"], ["only here"]],
        [["type: tuned says ORG", "box: tuned has it elsewhere"], []],
    ]
    assert "differ on 3 of 5 entities" in await page.run("document.querySelector('.summary').textContent")
    columns = "[...document.querySelectorAll('.panel')].map((panel) => panel.getBoundingClientRect().left)"
    left, right = await page.run(columns)
    assert right > left
    await page.size(390, 844)
    left, right = await page.run(columns)
    assert left == right, "one column on a phone"
    await page.run("(() => { const list = document.getElementById('second'); list.value = ''; })()")
    await extract(page)
    await page.until(f"document.querySelectorAll('.panel').length === 1 && {DONE}")
    check_quiet(page, stub)


async def test_a_token_is_asked_for_once_and_again_when_it_is_refused(page: Page, stub: ServiceStub) -> None:
    stub.token = "secret-1"
    await look_at(page, stub)
    await page.until("document.querySelector('dialog[open]')")
    assert await page.run(FOCUS) == "token"
    assert await page.run("document.getElementById('token').type") == "password"
    await page.send("Input.insertText", text="wrong")
    await key(page, "Enter")
    await page.until("document.getElementById('token-why').textContent === 'The service did not accept the token.'")
    await page.send("Input.insertText", text="secret-1")
    await key(page, "Enter")
    await page.until(READY)
    await page.until("document.querySelector('.example img').naturalWidth === 84")
    assert await page.run("[Object.keys(sessionStorage), localStorage.length, document.cookie]") == [["token"], 0, ""]
    await choose_example(page)
    stub.token = "secret-2"
    await extract(page)
    await page.until("document.querySelector('dialog[open]')")
    await page.send("Input.insertText", text="secret-2")
    await key(page, "Enter")
    await page.until(DONE)
    assert len(stub.asked) == 1, "the request that was refused went again by itself"
    await page.open(f"{stub.origin}/")
    await page.until(READY)
    assert not await page.run("document.getElementById('token-dialog').open"), "known for as long as the tab is"
    await page.run("sessionStorage.clear()")


async def test_a_link_restores_the_view_and_says_what_it_cannot_hold(
    page: Page, stub: ServiceStub, picture: Path
) -> None:
    stub.policies = [policy("tuned"), policy("base")]
    await look_at(page, stub)
    await choose_example(page)
    await write(page, f"{POST} 🎉 & more #1")
    await page.run("document.getElementById('options').open = true, document.getElementById('search').click()")
    await write(page, "12", "seed")
    await page.run("document.getElementById('second').value = ''")
    await extract(page)
    await page.until(DONE)
    await page.run("document.querySelector('.copy-link').click()")
    await page.until("document.querySelector('.told-link').textContent")
    link = await page.run("document.querySelector('[aria-label=\"Link to this view\"]').value")
    assert link.startswith(f"{stub.origin}/#") and len(link) < 8_100
    await page.open("about:blank")
    await look_at(page, stub, link.removeprefix(f"{stub.origin}/"))
    await page.until("document.getElementById('preview').naturalWidth === 84")
    restored = await page.run(
        "['text', 'seed', 'policy', 'second'].map((id) => document.getElementById(id).value)"
        ".concat(document.getElementById('search').checked)"
    )
    assert restored == [f"{POST} 🎉 & more #1", "12", "tuned", "", False]
    assert len(stub.asked) == 1, "a link asks for nothing by itself"
    await choose_file(page, picture)
    await write(page, "🎉" * 4_000)
    await extract(page)
    await page.until(DONE)
    beside = "document.querySelector('.told-link').textContent"
    assert "cannot hold your own picture" in await page.run(beside)
    await page.run("document.querySelector('.copy-link').click()")
    await page.until("document.querySelector('.told-link').textContent.includes('does not hold')")
    assert "your own picture and the post (it is too long for one)" in await page.run(beside)
    link = await page.run("location.href")
    assert len(link) < 8_100
    await page.open("about:blank")
    await look_at(page, stub, link.removeprefix(f"{stub.origin}/"))
    assert "choose it again" in await page.run("document.getElementById('image-problem').textContent")
    assert "too long" in await page.run("document.getElementById('text-problem').textContent")
    check_quiet(page, stub)


async def test_a_hostile_link_fills_only_what_the_fields_allow(page: Page, stub: ServiceStub) -> None:
    await look_at(
        page, stub, "#text=%3Cimg+src%3Dx%3E&example=nope&seed=-4&temperature=1e9&deadline_s=abc&policy=zz&a=%ff"
    )
    values = await page.run(
        "['text', 'seed', 'temperature', 'deadline_s'].map((id) => document.getElementById(id).value)"
    )
    assert values == ["<img src=x>", "0", "0", "60"]
    assert "does not have" in await page.run("document.getElementById('image-problem').textContent")
    check_quiet(page, stub)


async def test_no_sideways_scroll_on_a_phone_and_no_tiny_text(page: Page, stub: ServiceStub) -> None:
    await page.size(360, 740)
    stub.policies = [policy("tuned"), policy("base")]
    await look_at(page, stub)
    await page.run("document.getElementById('options').open = true")
    assert await page.run("document.documentElement.scrollWidth") <= 360
    await choose_example(page)
    await extract(page)
    await page.until(DONE)
    await page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert await page.run("document.documentElement.scrollWidth") <= 360
    for shown in await shown_boxes(page):
        assert all(-0.02 <= side <= 1.02 for side in shown)
    check_quiet(page, stub)


async def test_keys_alone_can_run_an_example_and_walk_its_entities(page: Page, stub: ServiceStub) -> None:
    await look_at(page, stub)

    async def tab_to(wanted: str) -> None:
        for _ in range(40):
            await key(page, "Tab")
            if wanted in await page.run(FOCUS):
                assert await page.run("document.activeElement.matches(':focus-visible')")
                return
        raise AssertionError(f"Tab does not reach {wanted}")

    await tab_to("skip")
    await key(page, "Enter")
    assert await page.run(FOCUS) == "ask"
    await tab_to("example")
    await key(page, "Enter")
    await page.until("document.activeElement.id === 'extract'")
    await key(page, "Enter")
    await page.until(DONE)
    assert await page.run("document.getElementById('status').textContent") == "Done: 3 entities, 2 searched."
    assert await page.run("document.getElementById('status').getAttribute('role')") == "status"
    await tab_to("row")
    await key(page, "ArrowDown")
    assert await page.run("document.activeElement.querySelector('.name').textContent") == "Bakedo"
    assert await page.run(LIT) == ["button1", "g1", "mark1"]
    unnamed = await page.run(
        "[...document.querySelectorAll('button, input, select, textarea, [role=button]')].filter((item) =>"
        " !(item.textContent.trim() || item.getAttribute('aria-label') || item.labels?.length)).length"
    )
    assert unnamed == 0, "every control has a name"
    check_quiet(page, stub)


async def test_past_answers_can_be_looked_at_again_and_edited(page: Page, stub: ServiceStub) -> None:
    await look_at(page, stub)
    for number in (0, 1):
        await choose_example(page, number)
        await page.until("document.getElementById('text').value.length > 0")
        await extract(page)
        await page.until(DONE)
    assert await page.run(ROWS) == ["Tiraso"]
    await page.run("document.querySelectorAll('.past')[1].click()")
    assert await page.run(ROWS) == ["Lodamo", "Bakedo", "Tiraso"]
    current = await page.run("[...document.querySelectorAll('.past')].map((one) => one.getAttribute('aria-current'))")
    assert current == ["false", "true"]
    await page.run("document.querySelector('.edit').click()")
    assert await page.run("document.getElementById('text').value") == POST
    for _ in range(30):
        await extract(page)
        await page.until(DONE)
    assert await page.run("document.querySelectorAll('.past').length") == 30, "and no more are kept"
    check_quiet(page, stub)


async def test_the_result_and_the_picture_with_boxes_can_be_downloaded(
    page: Page, stub: ServiceStub, tmp_path: Path
) -> None:
    await page.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    await look_at(page, stub)
    await choose_example(page)
    await extract(page)
    await page.until(DONE)
    await page.run("document.querySelector('.save-json').click()")
    assert json.loads(await downloaded(tmp_path / "entities-a-ex-a.json")) == usual_result(POST)
    await page.run("document.querySelector('.save-png').click()")
    await downloaded(tmp_path / "entities-a-ex-a.png")
    with Image.open(tmp_path / "entities-a-ex-a.png") as saved:
        drawn = saved.convert("RGB")
    scale = drawn.width // 84
    assert drawn.size == (84 * scale, 84 * scale) and drawn.width >= 640
    plain = board_picture(BOARD).resize(drawn.size, Image.Resampling.NEAREST)
    middle = (14 * scale, 14 * scale)
    assert drawn.getpixel(middle) == plain.getpixel(middle), "inside a box the picture is as it was"
    assert drawn.getpixel((28 * scale, 45 * scale)) == (0xFF, 0x9F, 0x40), "an ORG's box is orange"
    check_quiet(page, stub)


def whole(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() and path.stat().st_size else None


async def downloaded(path: Path) -> bytes:
    for _ in range(250):
        if (content := whole(path)) is not None:
            return content
        await asyncio.sleep(0.02)
    raise AssertionError(f"{path.name} was not downloaded")


async def test_a_picture_can_be_dropped_or_pasted(page: Page, stub: ServiceStub) -> None:
    await look_at(page, stub)
    content = list(png(Image.new("RGB", (1, 1))))
    transfer = f"""const data = new DataTransfer();
      data.items.add(new File([Uint8Array.from({content})], '%s.png', {{type: 'image/png'}}));"""
    note = "document.getElementById('file-note').textContent"
    told = "{dataTransfer: data, clipboardData: data, bubbles: true, cancelable: true}"
    drop = f"document.getElementById('drop').dispatchEvent(new DragEvent('drop', {told}))"
    paste = f"document.getElementById('text').dispatchEvent(new ClipboardEvent('paste', {told}))"
    await page.run(f"(() => {{ {transfer % 'one'} {drop}; }})()")
    assert await page.run(note) == "one.png"
    await page.run(f"(() => {{ {transfer % 'two'} {paste}; }})()")
    assert await page.run(note) == "a pasted picture"
    await page.until("document.getElementById('preview').naturalWidth === 1")
    check_quiet(page, stub)


async def test_a_service_that_cannot_be_reached_at_first_is_asked_again(page: Page, stub: ServiceStub) -> None:
    stub.token = "x"
    await look_at(page, stub)
    await page.run("document.getElementById('token-cancel').click()")
    await page.until("document.querySelector('dialog[open]') || document.querySelector('#notice .again')")
    while await page.run("document.getElementById('token-dialog').open"):
        await page.run("document.getElementById('token-cancel').click()")
        await asyncio.sleep(0.05)
    await page.until("document.querySelector('#notice .again')")
    stub.token = ""
    await page.run("document.querySelector('#notice .again').click()")
    await page.until("document.querySelectorAll('.example').length === 2")


async def test_a_stream_reads_the_same_however_it_is_cut(page: Page, stub: ServiceStub) -> None:
    await look_at(page, stub)
    stream = (
        ': hello\r\n\r\nevent: delta\r\ndata: {"text": "🎉"}\r\n\r\n'
        "event:x\rdata: a\rdata\rdata:b\r\r\ndata: c\n\nno end"
    )
    await page.run(f"window.stream = {json.dumps(stream)}")
    differing = await page.run(
        """import('/assets/sse.js').then(({ eventParser, readEvents }) => {
          const bytes = new TextEncoder().encode(stream), wanted = JSON.stringify(
            [['delta', '{"text": "🎉"}'], ['x', 'a\\n\\nb'], ['message', 'c']]);
          return Promise.all([...bytes.keys()].map(async (cut) => {
            const body = new ReadableStream({ start(control) {
              [bytes.slice(0, cut), bytes.slice(cut)].forEach((piece) => control.enqueue(piece));
              control.close();
            } });
            const told = [], pieces = [];
            await readEvents(body, (...event) => told.push(event));
            const take = eventParser((...event) => { pieces.push(event); });
            [stream.slice(0, cut), '', stream.slice(cut)].forEach((piece) => take(piece));
            return JSON.stringify(told) === wanted && JSON.stringify(pieces) === wanted;
          })).then((same) => same.filter((one) => !one).length);
        })"""
    )
    assert differing == 0


async def test_an_unfinished_answer_shows_each_entity_once_its_json_is_whole(page: Page, stub: ServiceStub) -> None:
    await look_at(page, stub)
    said = [
        {"entity": 'a } "quoted" {', "type": "PER", "box2d": []},
        {"entity": "b\\\\", "type": "LOC", "box2d": [1, 2, 3, 4]},
    ]
    raw = f"<reason>no {{}} <answer> yet</reason><answer>{json.dumps(said)}</answer>"
    counts = await page.run(
        f"import('/assets/points.js').then((points) => {{ const raw = {json.dumps(raw)};"
        " return [...Array(raw.length + 1).keys()].map((n) => points.unfinishedEntities(raw.slice(0, n)).length); })"
    )
    ends = [raw.index("}", raw.index('"box2d": []')) + 1, raw.rindex("}") + 1]
    assert counts == [sum(n >= end for end in ends) for n in range(len(raw) + 1)]
    for nonsense in ("<answer>[{]}", "<answer>{{{{", '<answer>[{"entity": 3, "type": null}]', "<answer>" + "}" * 99):
        found = (
            f"import('/assets/points.js').then((points) => points.unfinishedEntities({json.dumps(nonsense)}).length)"
        )
        assert await page.run(found) == 0


async def test_the_files_hold_no_inline_code_and_the_policy_forbids_it() -> None:
    files = service_files()
    index = files[INDEX].content.decode()
    assert "style=" not in index and "<script>" not in index and " on" + "click" not in index
    for name, file in files.items():
        content = file.content.decode()
        assert "innerHTML" not in content and "outerHTML" not in content and "eval(" not in content, name
        assert max(map(len, content.splitlines())) <= 120, name
        assert len(content.splitlines()) <= 350, name
        assert name == INDEX or f"/assets/{name}" in index or any(
            f'"./{name}"' in other.content.decode() for other in files.values()
        ), f"{name} is used"  # fmt: skip
    assert "unsafe" not in SECURITY_HEADERS["Content-Security-Policy"]
    with pytest.raises(TypeError):
        files["x"] = files[INDEX]  # type: ignore[index]
