"""The released search cache: parity with the released tool, strict matching, and refusal of broken or unsafe caches."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from envs.tools.offline import Asked, Found, OfflineSearchTool, read_queries, similarity
from envs.tools.search_cache import SearchCacheError
from sake_ray.data.gold import image_name_and_id
from sake_ray.data.images import load_image
from sake_ray.types import SearchKind


def write_cache(root: Path, text: Any = (), image: Any = ()) -> Path:
    for kind, rows in (("text", text), ("image", image)):
        folder = root / f"{kind}_search"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"p1_{kind}_search.json").write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return root


def text_row(query: str, summary: str = "about it", status: str = "success") -> dict[str, Any]:
    return {"query": query, "status": status, "result": {"summary": summary}}


def image_row(query: str, *paths: str, graph: str | None = None) -> dict[str, Any]:
    images = [{"path": path} for path in paths]
    return {"query": query, "status": "success", "result": {"images": images}, "kg_image_path": graph}


def test_release_matching_equals_the_released_tool(shared: Path) -> None:
    tool = OfflineSearchTool(shared / "data" / "search_cache_sample", matching="release")
    cases = json.loads((shared / "golden" / "search_cache_cases.json").read_text())
    assert len(cases) == 25
    for case in cases:
        asked = read_queries(case["queries"])
        for kind in SearchKind:
            found = tool.find(kind, case["img_id"], asked)
            assert [tool.as_released(kind, item) for item in found] == case[kind.value], case["queries"]


async def test_strict_matching_wants_the_threshold(tmp_path: Path) -> None:
    cache = write_cache(tmp_path, [text_row("Ada Lovelace"), text_row("Paris", "a city")])
    strict = await OfflineSearchTool(cache).search_text("p1", ["paris", "Pa", "ada lovelace?"])
    assert [(r.query, r.status, r.text) for r in strict] == [
        ("Paris", "success", "a city"),
        ("Pa", "no_result", ""),
        ("Ada Lovelace", "success", "about it"),
    ]
    nearest = await OfflineSearchTool(cache, matching="release").search_text("p1", ["Pa"])
    assert [r.query for r in nearest] == ["Paris"]
    assert (await OfflineSearchTool(cache).search_text("p2", ["paris"]))[0].status == "no_result"


@pytest.mark.parametrize(("matching", "repeated"), [("strict", [("paris", "no_result")]), ("release", [])])
async def test_an_entry_answers_one_query_and_a_failed_one_is_no_result(
    tmp_path: Path, matching: str, repeated: list[tuple[str, str]]
) -> None:
    cache = write_cache(tmp_path, [text_row("Paris"), text_row("Ada", "No information", "failure")])
    results = await OfflineSearchTool(cache, matching=matching).search_text("p1", ["Paris", "paris", "Ada"])
    assert [(r.query, r.status) for r in results] == [("Paris", "success"), *repeated, ("Ada", "no_result")]


async def test_images_come_graph_first_existing_only_at_most_k(tmp_path: Path) -> None:
    rows = [image_row("Ada", "images/gone.png", "images/a.png", "images/b.png", graph="images/kg.png")]
    cache = write_cache(tmp_path, image=[*rows, image_row("Bob", "images/gone.png", graph="images/gone.png")])
    (tmp_path / "images").mkdir()
    for index, name in enumerate(("a", "b", "kg")):
        Image.new("RGB", (10 + index, 5)).save(tmp_path / "images" / f"{name}.png")
    ada, bob = await OfflineSearchTool(cache).search_images("p1", ["Ada", "Bob"])
    assert [(Path(i.path).name, i.width) for i in ada.images] == [("kg.png", 12), ("a.png", 10)]
    assert (bob.status, bob.images) == ("no_result", ())


@pytest.mark.parametrize("img_id", ["../p1", "", ".p1", "a/b", "p1\0", "x" * 200, "p1\n"])
def test_ids_never_leave_the_cache(tmp_path: Path, img_id: str) -> None:
    with pytest.raises(SearchCacheError, match="img_id"):
        OfflineSearchTool(write_cache(tmp_path)).find(SearchKind.TEXT, img_id, [Asked("a")])


@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname", "images/../../x.png", "link/x.png", "a\0b", ""])
@pytest.mark.parametrize("graph", [False, True])
def test_paths_in_the_cache_never_leave_it(tmp_path: Path, path: str, graph: bool) -> None:
    row = image_row("Ada", graph=path) if graph else image_row("Ada", path)
    cache = write_cache(tmp_path / "cache", image=[row])
    (cache / "link").symlink_to(tmp_path)
    with pytest.raises(SearchCacheError, match=r"p1_image_search\.json.*(path|kg_image_path)"):
        OfflineSearchTool(cache).find(SearchKind.IMAGE, "p1", [Asked("Ada")])


@pytest.mark.parametrize(
    ("rows", "field"),
    [
        ("{not json", "p1_text_search"),
        ("[" * 100_000, "p1_text_search"),
        ({}, "must hold a list"),
        ([3], r"\[0\]: must be an object"),
        ([{"status": "success", "result": {"summary": ""}}], r"\[0\]\.query: is missing"),
        ([text_row("ok"), {**text_row("a"), "status": None}], r"\[1\]\.status: must be a string, is null"),
        ([{**text_row("a"), "result": []}], r"\[0\]\.result: must be an object, is a list"),
        ([{**text_row("a"), "result": {}}], r"\[0\]\.result\.summary: is missing"),
    ],
)
def test_a_broken_cache_file_is_an_error_naming_file_and_field(tmp_path: Path, rows: Any, field: str) -> None:
    tool = OfflineSearchTool(write_cache(tmp_path, rows))
    with pytest.raises(SearchCacheError, match=field) as error:
        asyncio.run(tool.search_text("p1", ["a"]))
    assert "p1_text_search.json" in str(error.value)


def damaged_pictures() -> dict[str, bytes]:
    """Pictures that a rollout worker could not show."""
    jpeg, thin = io.BytesIO(), io.BytesIO()
    Image.effect_noise((200, 100), 80).save(jpeg, "JPEG")
    Image.new("L", (2020, 20)).save(thin, "PNG")
    cut = jpeg.getvalue()[: len(jpeg.getvalue()) // 2]
    return {"none.png": b"no picture", "cut.jpg": cut, "thin.png": thin.getvalue()}


async def test_a_picture_that_cannot_be_shown_is_left_out_and_the_search_still_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = damaged_pictures()
    rows = [image_row("Ada", *bad, "good.png", graph="cut.jpg"), image_row("Bob", "thin.png")]
    cache = write_cache(tmp_path, [text_row("Ada")], rows)
    for name, content in bad.items():
        (cache / name).write_bytes(content)
    Image.new("L", (30, 20)).save(cache / "good.png")
    ada, bob = await OfflineSearchTool(cache, images_per_query=9).search_images("p1", ["Ada", "Bob"])
    assert (ada.status, [Path(image.path).name for image in ada.images]) == ("success", ["good.png"])
    assert load_image(ada.images[0]).size == (30, 20)
    assert (bob.status, bob.images) == ("no_result", ())
    for name in bad:
        assert name in caplog.text


async def test_a_picture_that_was_replaced_is_looked_at_again(tmp_path: Path) -> None:
    cache = write_cache(tmp_path, image=[image_row("Ada", "a.png")])
    for content in (b"no picture", None):
        if content is None:
            Image.new("L", (30, 20)).save(cache / "a.png")
        else:
            (cache / "a.png").write_bytes(content)
        (result,) = await OfflineSearchTool(cache).search_images("p1", ["Ada"])
        assert len(result.images) == int(content is None)


@given(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,40}", fullmatch=True))
@example("_1")
def test_every_id_that_gold_may_have_can_be_searched_for(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    """An id the cache refused would stop the run at that post's first search."""
    root = tmp_path_factory.getbasetemp() / "ids"
    _, post_id = image_name_and_id(name, "img_id")
    assert OfflineSearchTool(write_cache(root)).find(SearchKind.TEXT, post_id, [Asked("a")]) == [Found(Asked("a"))]


def test_settings_are_checked_before_any_search(tmp_path: Path) -> None:
    with pytest.raises(SearchCacheError, match=r"search\.cache"):
        OfflineSearchTool(tmp_path)
    with pytest.raises(ValueError, match=r"search\.matching"):
        OfflineSearchTool(write_cache(tmp_path), matching="loose")
    with pytest.raises(ValueError, match=r"search\.threshold"):
        OfflineSearchTool(tmp_path, threshold=1.5)


@pytest.mark.parametrize(
    ("top_k", "wanted"),
    [(2, 2), ("3", 3), (99, 99), (0, 1), (-1, 1), ("x", 1), (None, 1), (True, 1), (2.5, 1), ([], 1)],
)
def test_top_k_is_read_as_models_write_it(top_k: object, wanted: int) -> None:
    assert read_queries([{"query": "a", "top_k": top_k}, "b"]) == [Asked("a", wanted), Asked("b", 1)]


@pytest.mark.parametrize("queries", [{}, "a", [3], [{}], [{"query": None, "q": "a"}]])
def test_queries_of_another_form_are_refused(queries: object) -> None:
    with pytest.raises(ValueError, match="queries"):
        read_queries(queries)


@given(st.text(max_size=300), st.text(max_size=300))
def test_similarity_is_a_share_and_ignores_case_and_blanks(a: str, b: str) -> None:
    assert 0.0 <= similarity(a, b) <= 1.0
    assert similarity(f"  {a} ", b) == similarity(a, b)
    assert similarity(a, a) == 1.0
