"""The pages in a real browser, from the file system: quiet, inert, filtered, moved through by keys, narrow and dark."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.report import make_page
from tests.browser import Heard, Locator, Page, expect
from tests.sake_ray.pages.page_case import HOSTILE, make_evaluation, make_pictures, make_run

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    make_evaluation(folder / "e", 40, make_pictures(folder / "images", 8))
    return make_page([f"evaluation={folder / 'e'}"])


@pytest.fixture(scope="module")
def run_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run = make_run(folder / "r", 6)
    (run / "alerts.jsonl").write_text(
        '{"step": 4, "name": "entropy", "message": "<b>fell</b>", "value": 0.01, "threshold": 0.05, "action": "warn"}\n'
    )
    return make_page([f"run={run}"])


async def look_at(page: Page, path: Path, hash_: str = "") -> None:
    await page.goto(path.as_uri() + hash_)
    await expect(page.locator("html")).to_have_attribute("data-ready", "yes")


def cards(page: Page) -> Locator:
    return page.locator("#cards > .card")


async def choose(page: Page, facet: str, value: str) -> None:
    await page.locator(f"[data-facet={facet}]").select_option(value)


async def press(page: Page, *keys: str) -> None:
    for key in keys:
        await page.keyboard.press(key)


def check_quiet(heard: Heard, path: Path) -> None:
    assert heard.problems == []
    assert {address.partition("#")[0] for address in heard.requests} == {path.as_uri()}, "a page asks for itself only"


async def test_an_evaluation_loads_without_a_word_and_its_texts_stay_texts(
    page: Page, heard: Heard, evaluation: Path
) -> None:
    await look_at(page, evaluation)
    await expect(cards(page)).to_have_count(40)
    await expect(page.locator("#cards img"), "far posts are not built yet").to_have_count(0)
    await press(page, "j")
    current = page.locator(".card.current")
    await expect(current.locator(".pic img")).to_have_js_property("complete", True)
    await expect(current.locator(".pic img")).not_to_have_js_property("naturalWidth", 0)
    await press(page, "o")
    await expect(current.locator("ol.turns")).to_be_visible()
    assert HOSTILE in (await current.text_content() or "")
    # Whatever an <img onerror> or a <script> of a text would have done: there is none, and nothing has thrown.
    await expect(page.locator("img[onerror], #cards script, #main b i")).to_have_count(0)
    await expect(page.locator("#provenance")).to_contain_text("runs/<b>case</b>")
    check_quiet(heard, evaluation)


async def test_filters_search_and_order_change_what_is_shown_and_the_address_says_it(
    page: Page, heard: Heard, evaluation: Path
) -> None:
    await look_at(page, evaluation)
    await choose(page, "error", "all right")
    right = await cards(page).count()
    await choose(page, "error", "any error")
    wrong = await cards(page).count()
    assert 0 < right < 40 and right + wrong == 40
    await expect(page.locator("#count")).to_have_text(f"{wrong} of 40 posts")
    await choose(page, "search", "none")
    both = await cards(page).count()
    assert 0 < both < wrong
    address = page.url.removeprefix(evaluation.as_uri())
    assert "error=any+error" in address and "search=none" in address
    await page.goto("about:blank")
    heard.requests.clear()
    await look_at(page, evaluation, address)
    await expect(cards(page), "the address is a link to what was chosen").to_have_count(both)
    await page.locator(".controls button").first.click()
    await expect(cards(page)).to_have_count(40)
    await press(page, "/")
    await page.keyboard.type("beta 17")
    await expect(cards(page)).to_have_count(1)
    await press(page, "Escape")
    await expect(page.locator("#find")).not_to_be_focused()
    check_quiet(heard, evaluation)


async def test_keys_move_through_the_posts_and_a_link_leads_to_one(page: Page, heard: Heard, evaluation: Path) -> None:
    await look_at(page, evaluation, "#post=post_31")
    current = page.locator(".card.current")
    name = current.locator("h3")
    await expect(name).to_have_text("post_31")
    await expect(current).to_be_in_viewport()
    for keys, wanted in (("j", "post_32"), ("kk", "post_30"), (["ArrowDown"], "post_31"), ("G", "post_39")):
        await press(page, *keys)
        await expect(name).to_have_text(wanted)
    assert page.url.endswith("post=post_39")
    await expect(current, "focus goes along").to_be_focused()
    await press(page, "?")
    await expect(page.locator("#help")).to_be_visible()
    await press(page, "Escape")
    await expect(page.locator("#help")).to_be_hidden()
    check_quiet(heard, evaluation)


async def test_a_run_shows_how_a_group_differs(page: Page, heard: Heard, run_report: Path) -> None:
    await look_at(page, run_report)
    await choose(page, "step", "3")
    await expect(cards(page)).to_have_count(2)
    await press(page, "j")
    members = page.locator(".current .members")
    heads = members.locator("thead button")
    await expect(heads).to_have_count(4)
    assert {"reward", "advantage", "turns"} <= set(await members.locator("tbody th").all_text_contents())
    await press(page, "]")
    await expect(heads.nth(1)).to_have_attribute("aria-pressed", "true")
    await heads.nth(3).click()
    await expect(heads.nth(3)).to_have_attribute("aria-pressed", "true")
    await expect(members.locator("thead button[aria-pressed=true]")).to_have_count(1)
    await expect(page.locator("#health")).to_contain_text("<b>fell</b>")
    assert await page.locator("#reward svg.chart .event").count() > 0, "warnings are in the plots"
    check_quiet(heard, run_report)


@pytest.mark.parametrize("name", ["evaluation", "run_report"])
async def test_a_phone_scrolls_one_way_only_and_the_dark_is_dark(
    phone: Page, heard: Heard, name: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(name)
    await look_at(phone, path)
    await press(phone, "j", "o")
    await expect(phone.locator(".current ol.turns")).to_be_visible()
    await phone.locator("details").evaluate_all("(all) => all.forEach((part) => { part.open = true; })")
    await phone.wait_for_function(
        "[...document.querySelectorAll('#cards details')].every((part) => !part.open || part.children.length > 1)"
    )
    assert await phone.evaluate("document.documentElement.scrollWidth") == 360
    await expect(phone.locator("body")).to_have_css("background-color", "rgb(255, 255, 255)")
    await phone.emulate_media(color_scheme="dark")
    await expect(phone.locator("body")).to_have_css("background-color", "rgb(13, 17, 23)")
    check_quiet(heard, path)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["evaluation", "run_report"])
async def test_text_has_the_contrast_to_be_read(
    page: Page, name: str, dark: bool, request: pytest.FixtureRequest
) -> None:
    """WCAG AA: 4.5 to 1 for every text that is drawn on the page's own colours."""
    await page.emulate_media(color_scheme="dark" if dark else "light")
    await look_at(page, request.getfixturevalue(name))
    await press(page, "j", "o")
    assert await page.evaluate(_FAINT) == []


async def test_every_part_has_a_name_for_those_who_hear_the_page(page: Page, evaluation: Path) -> None:
    await look_at(page, evaluation)
    for tag in ("header", "nav", "main", "footer"):
        await expect(page.locator(f"body > {tag}").first).to_be_attached()
    assert await page.evaluate(
        "[...document.querySelectorAll('main > section')].every((one) => byId(one.getAttribute('aria-labelledby')))"
    )
    controls = page.locator("input, select")
    assert await controls.evaluate_all("(all) => all.every((one) => one.labels.length === 1)")
    charts = page.locator("svg.chart")
    assert await charts.evaluate_all("(all) => all.every((one) => one.getAttribute('aria-label'))")
    ids = await page.locator("[id]").evaluate_all("(all) => all.map((node) => node.id)")
    assert len(ids) == len(set(ids)), "an id is there once"


_FAINT = """(() => {
  const light = (text) => {
    const [r, g, b, a] = text.match(/[\\d.]+/g).map(Number);
    if (a === 0) return null;
    const part = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const found = light(getComputedStyle(at).backgroundColor);
      if (found !== null) return found;
    }
    return 1;
  };
  const faint = new Set();
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.checkVisibility() || node.closest('script, .pic')) continue;
    const style = getComputedStyle(node);
    const ink = light(node.closest('svg') ? style.fill : style.color), paper = behind(node);
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    const name = `${node.tagName}.${node.getAttribute('class')} ${node.textContent.slice(0, 30)}`;
    if (ratio < 4.5) faint.add(`${name}: ${ratio.toFixed(2)}`);
  }
  return [...faint];
})()"""
