"""`SearchMemo`: what was answered once is never asked again, in this run or a later one; what failed is.

What would go unseen otherwise: searches paid for twice, an outage remembered as "found nothing" for ever, one post's
cached results shown to another.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from envs.search_memo import SearchMemo
from sake_ray.data.problems import DataError
from sake_ray.types import Example, ImageRef, ImageSearch, Observation, QueryResult, SearchKind, TextSearch

POST = Example("p1", "Ada", ImageRef("a.png", 1, 1), ())
OTHER = Example("p2", "Ada", ImageRef("a.png", 1, 1), ())
ADA, LOOK = TextSearch(("Ada",)), ImageSearch(("Ada",))


class Tool:
    """Answers after a moment with what `status` says, and counts."""

    def __init__(self, picture: Path | None = None) -> None:
        self.asked: list[tuple[str, TextSearch | ImageSearch]] = []
        self.status = "success"
        self.picture = picture

    async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
        self.asked.append((example.id, action))
        await asyncio.sleep(0)
        if self.status == "bug":
            raise KeyError("a bug of ours")
        kind = SearchKind.TEXT if isinstance(action, TextSearch) else SearchKind.IMAGE
        images = (ImageRef(str(self.picture), 3, 2),) if self.picture and kind is SearchKind.IMAGE else ()
        results = (QueryResult(query, self.status, f"{query} \ud83d", images) for query in action.queries)
        return Observation(kind, tuple(results), latency_s=0.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "searches.jsonl"


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def results(observation: Observation) -> list[tuple[str, str, str, tuple[ImageRef, ...]]]:
    return [(r.query, r.status, r.text, r.images) for r in observation.results]


async def test_of_several_who_ask_at_once_one_asks_the_tool(path: Path) -> None:
    tool = Tool()
    memo = SearchMemo(tool, path, per_post=False)
    found = await asyncio.gather(*(memo.search(example, ADA) for example in (POST, OTHER, POST)))
    assert len({id(observation) for observation in found}) == 1
    again = await memo.search(POST, ADA)
    assert results(again) == results(found[0])
    assert [result.cached for result in again.results] == [True]
    assert (memo.asked, memo.hits, len(tool.asked)) == (1, 1, 1)


async def test_one_who_is_cancelled_does_not_take_the_answer_from_the_others(path: Path) -> None:
    memo = SearchMemo(Tool(), path, per_post=False)
    first, second = asyncio.create_task(memo.search(POST, ADA)), asyncio.create_task(memo.search(POST, ADA))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).results[0].status == "success"
    assert first.cancelled()


async def test_kinds_and_queries_are_told_apart(path: Path) -> None:
    tool = Tool()
    memo = SearchMemo(tool, path, per_post=False)
    for action in (ADA, LOOK, TextSearch(("Ada", "Eve")), TextSearch(("Eve", "Ada"))):
        await memo.search(POST, action)
    assert len(tool.asked) == 4


@pytest.mark.parametrize("per_post", [False, True])
async def test_another_posts_answers_are_its_own_where_the_tool_has_answers_a_post(path: Path, per_post: bool) -> None:
    for _ in range(2):  # in memory, then from the file
        tool = Tool()
        memo = SearchMemo(tool, path, per_post=per_post)
        await memo.search(POST, ADA)
        await memo.search(OTHER, ADA)
        assert memo.hits == (2 - len(tool.asked))
    assert len(lines(path)) == (2 if per_post else 1)


async def test_a_second_run_asks_nothing_and_hears_the_same(path: Path, tmp_path: Path) -> None:
    picture = tmp_path / "found.png"
    Image.new("RGB", (3, 2)).save(picture)
    first = SearchMemo(Tool(picture), path, per_post=False)
    found = [await first.search(POST, action) for action in (ADA, LOOK)]
    with path.open("a") as file:
        file.write('{"post": "", "queries": ["Eve"], "ki')  # half a line that a killed run left
    tool = Tool(picture)
    second = SearchMemo(tool, path, per_post=False)
    again = [await second.search(POST, action) for action in (ADA, LOOK)]
    assert [results(observation) for observation in again] == [results(observation) for observation in found]
    assert [observation.kind for observation in again] == [SearchKind.TEXT, SearchKind.IMAGE]
    assert not tool.asked
    picture.unlink()
    third = SearchMemo(tool, path, per_post=False)
    await third.search(POST, LOOK)
    assert tool.asked == [("p1", LOOK)]  # what cannot be shown any more is asked for anew


@pytest.mark.parametrize("status", ["failed", "bug"])
async def test_what_failed_is_not_remembered(path: Path, status: str) -> None:
    tool = Tool()
    tool.status = status
    memo = SearchMemo(tool, path, per_post=False)
    if status == "bug":
        found = await asyncio.gather(memo.search(POST, ADA), memo.search(POST, ADA), return_exceptions=True)
        assert [type(error) for error in found] == [KeyError, KeyError]
    else:
        assert (await memo.search(POST, ADA)).results[0].status == "failed"
    assert lines(path) == []
    tool.status = "no_result"
    assert (await memo.search(POST, ADA)).results[0].status == "no_result"
    await memo.search(POST, ADA)
    assert len(tool.asked) == 2  # that nothing was found is an answer, and remembered


ROW: dict[str, Any] = {
    "post": "", "queries": ["Ada"], "kind": "text",
    "results": [{"query": "Ada", "status": "success", "text": "", "images": []}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("5", "post: is missing"),
        ("{", "json"),
        ({"post": None}, "post: is missing"),
        ({"queries": "Ada"}, "queries: is no list of texts"),
        ({"queries": [3]}, "queries: is no list of texts"),
        ({"kind": "smell"}, r"answer\.kind: 'smell' is no kind of search"),
        ({"kind": ["text"]}, r"answer\.kind: .* is no kind of search"),
        ({"kind": ""}, "kind: is missing"),
        ({"results": [{**ROW["results"][0], "status": "maybe"}]}, r"answer\.results\[0\]: .*a status of success"),
        (
            {"results": [{**ROW["results"][0], "images": [{"path": "a.png"}]}]},
            r"answer\.results\[0\]\.images: is no picture",
        ),
    ],
)
def test_a_broken_line_is_named(path: Path, change: str | dict[str, Any], message: str) -> None:
    path.parent.mkdir()
    broken = change if isinstance(change, str) else json.dumps({**ROW, **change})
    path.write_text(f"{json.dumps(ROW)}\n{broken}\n")
    with pytest.raises(DataError, match=rf"searches\.jsonl:2: {message}"):
        SearchMemo(Tool(), path, per_post=False)
