"""The pages in a real browser, from the file system: quiet, inert, filtered, moved through by keys, narrow and dark."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from launch.report import make_page
from tests.browser import Page, needs_chromium, open_browser
from tests.sake_ray.pages.page_case import HOSTILE, make_evaluation, make_pictures, make_run

pytestmark = [pytest.mark.integration, needs_chromium]

READY = "document.documentElement.dataset.ready === 'yes'"
SHOWN = "document.querySelectorAll('#cards > .card').length"
CURRENT = "document.querySelector('.card.current')?.querySelector('h3').textContent"
CHOOSE = """(() => {{
  const list = document.querySelector('[data-facet={0}]');
  list.value = '{1}';
  list.dispatchEvent(new Event('change'));
}})()"""


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


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with open_browser() as opened:
        await opened.size(1_280, 900)
        yield opened


async def look_at(page: Page, path: Path, hash_: str = "") -> None:
    await page.open(path.as_uri() + hash_)
    await page.until(READY)


def check_quiet(page: Page, path: Path) -> None:
    assert page.problems == []
    assert {address.partition("#")[0] for address in page.requests} == {path.as_uri()}, "a page asks for itself only"


async def test_an_evaluation_loads_without_a_word_and_its_texts_stay_texts(page: Page, evaluation: Path) -> None:
    await look_at(page, evaluation)
    assert await page.run(SHOWN) == 40
    assert await page.run("document.querySelectorAll('#cards img').length") == 0, "far posts are not built yet"
    await page.press("j")
    await page.until("document.querySelector('.card.current .pic img')?.naturalWidth > 0")
    await page.press("o")
    await page.until("document.querySelector('.card.current ol.turns')")
    shown = await page.run("document.querySelector('.card.current').textContent")
    assert HOSTILE in shown
    # Whatever an <img onerror> or a <script> of a text would have done: there is none, and nothing has thrown.
    assert await page.run("document.querySelectorAll('img[onerror], #cards script, #main b i').length") == 0
    assert await page.run("document.querySelector('#provenance').textContent.includes('runs/<b>case</b>')")
    check_quiet(page, evaluation)


async def test_filters_search_and_order_change_what_is_shown_and_the_address_says_it(
    page: Page, evaluation: Path
) -> None:
    await look_at(page, evaluation)
    await page.run(CHOOSE.format("error", "all right"))
    right = await page.run(SHOWN)
    await page.run(CHOOSE.format("error", "any error"))
    wrong = await page.run(SHOWN)
    assert 0 < right < 40 and right + wrong == 40
    assert await page.run("document.getElementById('count').textContent") == f"{wrong} of 40 posts"
    await page.run(CHOOSE.format("search", "none"))
    both = await page.run(SHOWN)
    assert 0 < both < wrong
    address = await page.run("location.hash")
    assert "error=any+error" in address and "search=none" in address
    await page.open("about:blank")
    page.requests.clear()
    await look_at(page, evaluation, address)
    assert await page.run(SHOWN) == both, "the address is a link to what was chosen"
    await page.run("document.querySelector('.controls button').click()")
    assert await page.run(SHOWN) == 40
    await page.press("/")
    for letter in "beta 17":
        await page.press(letter)
    await page.until(f"{SHOWN} === 1")
    await page.press("Escape")
    assert await page.run("document.activeElement.id") != "find"
    check_quiet(page, evaluation)


async def test_keys_move_through_the_posts_and_a_link_leads_to_one(page: Page, evaluation: Path) -> None:
    await look_at(page, evaluation, "#post=post_31")
    assert await page.run(CURRENT) == "post_31"
    assert await page.run("document.querySelector('.current').getBoundingClientRect().top < innerHeight")
    await page.press("j")
    assert await page.run(CURRENT) == "post_32"
    await page.press("k")
    await page.press("k")
    assert await page.run(CURRENT) == "post_30"
    await page.press("ArrowDown")
    assert await page.run(CURRENT) == "post_31"
    await page.press("G")
    assert await page.run(CURRENT) == "post_39"
    assert (await page.run("location.hash")).endswith("post=post_39")
    assert await page.run("document.activeElement.classList.contains('card')"), "focus goes along"
    await page.press("?")
    assert await page.run("document.getElementById('help').open")
    await page.press("Escape")
    await page.until("!document.getElementById('help').open")
    check_quiet(page, evaluation)


async def test_a_run_shows_how_a_group_differs(page: Page, run_report: Path) -> None:
    await look_at(page, run_report)
    await page.run(CHOOSE.format("step", "3"))
    assert await page.run(SHOWN) == 2
    await page.press("j")
    heads = "[...document.querySelectorAll('.current .members thead button')]"
    assert await page.run(f"{heads}.length") == 4
    rows = "[...document.querySelectorAll('.current .members tbody th')].map((cell) => cell.textContent)"
    assert {"reward", "advantage", "turns"} <= set(await page.run(rows))
    pressed = f"{heads}.findIndex((button) => button.getAttribute('aria-pressed') === 'true')"
    await page.press("]")
    assert await page.run(pressed) == 1
    await page.run(f"{heads}[3].click()")
    assert await page.run(pressed) == 3
    assert "<b>fell</b>" in await page.run("document.getElementById('health').textContent")
    assert await page.run("document.querySelectorAll('#reward svg.chart .event').length") > 0, (
        "warnings are in the plots"
    )
    check_quiet(page, run_report)


@pytest.mark.parametrize("name", ["evaluation", "run_report"])
async def test_a_phone_scrolls_one_way_only_and_the_dark_is_dark(
    page: Page, name: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(name)
    await page.size(360, 740, 2.0)
    await look_at(page, path)
    await page.press("j")
    await page.press("o")
    await page.until("document.querySelector('.current ol.turns')")
    await page.run("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    await page.until(
        "[...document.querySelectorAll('#cards details')].every((part) => !part.open || part.children.length > 1)"
    )
    assert await page.run("document.documentElement.scrollWidth") == 360
    background = "getComputedStyle(document.body).backgroundColor"
    light = await page.run(background)
    await page.dark(True)
    dark = await page.run(background)
    assert light == "rgb(255, 255, 255)" and dark == "rgb(13, 17, 23)"
    check_quiet(page, path)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["evaluation", "run_report"])
async def test_text_has_the_contrast_to_be_read(
    page: Page, name: str, dark: bool, request: pytest.FixtureRequest
) -> None:
    """WCAG AA: 4.5 to 1 for every text that is drawn on the page's own colours."""
    await page.dark(dark)
    await look_at(page, request.getfixturevalue(name))
    await page.press("j")
    await page.press("o")
    assert await page.run(_FAINT) == []


async def test_every_part_has_a_name_for_those_who_hear_the_page(page: Page, evaluation: Path) -> None:
    await look_at(page, evaluation)
    assert await page.run("['header', 'nav', 'main', 'footer'].every((tag) => document.querySelector(`body > ${tag}`))")
    assert await page.run(
        "[...document.querySelectorAll('main > section')].every((one) => byId(one.getAttribute('aria-labelledby')))"
    )
    assert await page.run("[...document.querySelectorAll('input, select')].every((one) => one.labels.length === 1)")
    assert await page.run("[...document.querySelectorAll('svg.chart')].every((one) => one.getAttribute('aria-label'))")
    ids = "[...document.querySelectorAll('[id]')].map((node) => node.id)"
    assert await page.run(f"{ids}.length === new Set({ids}).size"), "an id is there once"


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
