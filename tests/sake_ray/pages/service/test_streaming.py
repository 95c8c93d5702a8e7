"""An answer on the service's page while it comes: it grows, breaks off, is cancelled, begins anew, is tried again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.browser import Heard, Page, expect
from tests.sake_ray.pages.service.page_steps import (
    button,
    check_quiet,
    choose_example,
    choose_file,
    done,
    extract,
    look_at,
    marks,
    names,
    shown_boxes,
    write,
)
from tests.sake_ray.pages.service.service_stub import (
    POST,
    Answer,
    Drop,
    Gate,
    ServiceStub,
    entity,
    event,
    events_of,
    problem,
    result_of,
    serve,
    usual_result,
)

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


async def test_an_answer_grows_while_it_is_written_and_ends_with_rows_spans_and_boxes_in_place(
    page: Page, heard: Heard, stub: ServiceStub, picture: Path
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
    await page.keyboard.press("Control+Enter")
    await expect(page.locator(".live")).to_contain_text("</text_search>")
    await expect(page.locator(".turn")).to_have_count(1)
    await expect(page.locator(".state")).to_have_text("Writing turn 1 …")
    first.set()
    await expect(page.locator(".row.unfinished")).to_have_count(3)
    await expect(page.locator(".layer g"), "boxes wait for the whole answer").to_have_count(0)
    await page.keyboard.press("Control+Enter")
    await expect(page.locator("#status")).to_have_text("An answer is under way; cancel it first.")
    last.set()
    await done(page)
    await expect(names(page)).to_have_text([one["text"] for one in result["entities"]])
    assert await marks(page) == [POST[slice(*one["span"])] for one in result["entities"]]
    expected = [[side / 84 for side in one["box"]] for one in result["entities"] if one["box"]]
    for shown, wanted in zip(await shown_boxes(page), expected, strict=True):
        assert shown == pytest.approx(wanted, abs=0.02)
    badges = page.locator("button.row .badge")
    await expect(badges).to_have_text(["searched" if one["searched"] else "known" for one in result["entities"]])
    await expect(badges.locator("svg"), "and not by colour alone").to_have_count(3)
    trace = page.locator(".trace")
    await expect(trace).to_contain_text("Bakedo is a ORG , a green cross")
    await expect(trace).to_contain_text("failed: timeout")
    await expect(trace.locator(".thumbnails img")).to_have_js_property("naturalWidth", 56)
    assert len(stub.asked) == 1
    assert stub.asked[0]["text"] == POST
    assert stub.asked[0]["options"] == {
        "search": True, "text_searches": 2, "image_searches": 1, "seed": 0, "temperature": 0, "deadline_s": 60,
        "policy": "", "thumbnails": True,
    }  # fmt: skip
    check_quiet(heard, stub)


async def test_a_broken_connection_loses_nothing_and_try_again_works(
    page: Page, heard: Heard, stub: ServiceStub
) -> None:
    events = events_of(usual_result(POST))
    written = next(i for i, told in enumerate(events) if b'"turn": 1' in told)
    short = result_of(POST, [entity(POST, "Lodamo", "PER", None)])
    seen = Gate()
    stub.script(Answer([*events[: written + 1], seen, Drop()]), Answer(events[:6]), Answer(events_of(short)))
    await look_at(page, stub)
    await choose_example(page)
    await extract(page)
    await expect(page.locator(".turn")).to_have_count(2)
    seen.set()
    alert = page.locator(".panel").get_by_role("alert")
    await expect(alert).to_contain_text("The connection broke before the answer was whole.")
    await expect(alert).to_contain_text("may have been restarted")
    await expect(page.get_by_label("Post", exact=True)).to_have_value(POST)
    await button(page, "Try again").click()
    await expect(alert).to_contain_text("The connection ended before the answer was whole.")
    await button(page, "Try again").click()
    await done(page)
    await expect(names(page)).to_have_text(["Lodamo"])
    await expect(page.locator(".turn"), "nothing of the broken tries is left").to_have_count(1)
    assert stub.asked[0] == stub.asked[1] == stub.asked[2]
    check_quiet(heard, stub, refused=True)


async def test_a_service_that_is_gone_and_back_answers_the_same_post(page: Page, heard: Heard) -> None:
    stub = ServiceStub()
    async with serve(stub):
        await look_at(page, stub)
        await choose_example(page)
    await extract(page)
    alert = page.locator(".panel").get_by_role("alert")
    await expect(alert).to_contain_text("The service cannot be reached. It may have been restarted.")
    async with serve(stub, urlsplit(stub.origin).port or 0):
        await button(page, "Try again").click()
        await done(page)
    assert len(stub.asked) == 1
    check_quiet(heard, stub, refused=True)


async def test_a_busy_service_says_when_to_try_again(page: Page, heard: Heard, stub: ServiceStub) -> None:
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
        await expect(page.locator(".panel .alert p")).to_have_text(words)
        await button(page, "Try again").click()
    await done(page)
    check_quiet(heard, stub, refused=True)


async def test_cancel_ends_the_request_and_a_restart_begins_anew(page: Page, heard: Heard, stub: ServiceStub) -> None:
    gate, events = Gate(), events_of(usual_result(POST))
    stub.script(Answer([*events[:5], gate]))
    stub.script(Answer([*events[:5], event("restart", {"reason": "its engine was lost"}), gate, *events]))
    await look_at(page, stub)
    await choose_example(page)
    await extract(page)
    await expect(page.locator(".live")).to_be_visible()
    await button(page, "Cancel").press("Enter")
    state = page.locator(".state")
    await expect(state).to_have_text("Cancelled.")
    async with asyncio.timeout(60):
        await stub.aborted.wait()
    await expect(page.locator("#cancel")).to_be_hidden()
    await expect(button(page, "Extract"), "the focus does not vanish with the button").to_be_focused()
    await button(page, "Try again").click()
    await expect(state).to_have_text("Began anew: its engine was lost")
    await expect(page.locator(".turn"), "what came before is void").to_have_count(0)
    gate.set()
    await done(page)
    await expect(page.locator(".turn")).to_have_count(3)
    check_quiet(heard, stub)


async def test_an_episode_without_an_answer_says_why(page: Page, heard: Heard, stub: ServiceStub) -> None:
    result = {**result_of(POST, []), "stop": "malformed"}
    result["turns"][0] |= {"action": "malformed", "malformed": "bad_json", "text": "<answer>[{", "reasoning": ""}
    stub.script(Answer(events_of(result)), Answer(events_of(result_of(POST, []))))
    await look_at(page, stub)
    await choose_example(page)
    for words in ("No entities: the last turn could not be read as an answer.", "The answer names no entity."):
        await extract(page)
        await expect(page.locator(".nothing")).to_have_text(words)
        await expect(page.locator("#cancel")).to_be_hidden()
    await expect(page.locator(".past")).to_have_count(2)
    check_quiet(heard, stub)


async def test_a_stream_reads_the_same_however_it_is_cut(page: Page, stub: ServiceStub) -> None:
    await look_at(page, stub)
    stream = (
        ': hello\r\n\r\nevent: delta\r\ndata: {"text": "🎉"}\r\n\r\n'
        "event:x\rdata: a\rdata\rdata:b\r\r\ndata: c\n\nno end"
    )
    differing = await page.evaluate(
        """(stream) => import('/assets/sse.js').then(({ eventParser, readEvents }) => {
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
        })""",
        stream,
    )
    assert differing == 0


async def test_an_unfinished_answer_shows_each_entity_once_its_json_is_whole(page: Page, stub: ServiceStub) -> None:
    await look_at(page, stub)
    said = [
        {"entity": 'a } "quoted" {', "type": "PER", "box2d": []},
        {"entity": "b\\\\", "type": "LOC", "box2d": [1, 2, 3, 4]},
    ]
    raw = f"<reason>no {{}} <answer> yet</reason><answer>{json.dumps(said)}</answer>"
    count = """(texts) => import('/assets/points.js').then((points) =>
      texts.map((text) => points.unfinishedEntities(text).length))"""
    ends = [raw.index("}", raw.index('"box2d": []')) + 1, raw.rindex("}") + 1]
    counts = await page.evaluate(count, [raw[:n] for n in range(len(raw) + 1)])
    assert counts == [sum(n >= end for end in ends) for n in range(len(raw) + 1)]
    nonsense = ["<answer>[{]}", "<answer>{{{{", '<answer>[{"entity": 3, "type": null}]', "<answer>" + "}" * 99]
    assert await page.evaluate(count, nonsense) == [0, 0, 0, 0]
