"""The local encyclopaedia: what is found for a query, that any query is harmless, and what a broken folder says."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from envs.tools.local import LocalSearchTool, fts_words
from envs.tools.local_index import (
    INDEX_NAME,
    SOURCE_NAME,
    Article,
    Caption,
    LocalIndexError,
    build_local_index,
    ensure_local_index,
)


def picture(width: int, height: int = 5, form: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height)).save(data, form)
    return data.getvalue()


ARTICLES = (
    Article("Bakedo", "Bakedo is a PER , a red circle", (picture(11), picture(12, form="JPEG"))),
    Article("Radio Bakedo", "Radio Bakedo is an ORG named after Bakedo Bakedo Bakedo", (picture(13),)),
    Article("Zürich", "a city on a lake"),
    Article("The Who", "a band from London"),
)


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSearchTool]:
    root = tmp_path_factory.mktemp("world")
    captions = [Caption("pictures/000001_0.png", 'NEAR the AND title: "½"')]
    assert build_local_index(root, ARTICLES, captions=captions) == len(ARTICLES)
    tool = LocalSearchTool(root, images_per_query=2)
    yield tool
    tool.close()


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("bakedo", ARTICLES[0].text),
        ("  RADIO   bakedo ", ARTICLES[1].text),
        ("what is Radio Bakedo ?", ARTICLES[1].text),
        ("zurich lake", ARTICLES[2].text),
        ("the who", ARTICLES[3].text),
        ("london", ARTICLES[3].text),
    ],
)
async def test_the_exact_title_wins_then_the_best_words(tool: LocalSearchTool, query: str, text: str) -> None:
    (result,) = await tool.search_text("any post", [query])
    assert (result.query, result.status, result.text) == (query, "success", text)


@pytest.mark.parametrize("query", ["Nobody", "what is it ?", "???", ""])
async def test_nothing_found_is_no_result(tool: LocalSearchTool, query: str) -> None:
    (result,) = await tool.search_text("any post", [query])
    assert (result.status, result.text) == ("no_result", "")


async def test_images_are_those_of_the_article(tool: LocalSearchTool) -> None:
    bakedo, zurich, nobody = await tool.search_images("any post", ["Bakedo", "Zürich", "Nobody"])
    assert [(image.width, image.height) for image in bakedo.images] == [(11, 5), (12, 5)]
    assert [Path(image.path).name for image in bakedo.images] == ["000001_0.png", "000001_1.jpg"]
    assert (zurich.status, nobody.status) == ("no_result", "no_result")


async def test_a_picture_damaged_since_is_left_out_and_the_search_still_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build_local_index(tmp_path, ARTICLES[:2])
    first, lone = tmp_path / "pictures" / "000001_0.png", tmp_path / "pictures" / "000002_0.png"
    first.write_bytes(first.read_bytes()[:40])
    lone.unlink()
    tool = LocalSearchTool(tmp_path, images_per_query=2)
    bakedo, radio = await tool.search_images("any post", ["Bakedo", "Radio Bakedo"])
    assert (bakedo.status, [Path(image.path).name for image in bakedo.images]) == ("success", ["000001_1.jpg"])
    assert radio.status == "no_result"
    assert "000001_0.png" in caplog.text and "000002_0.png" in caplog.text
    tool.close()


async def test_texts_and_pictures_are_bounded(tmp_path: Path) -> None:
    build_local_index(tmp_path, ARTICLES)
    tool = LocalSearchTool(tmp_path, images_per_query=1, max_chars=6)
    assert (await tool.search_text("", ["Bakedo"]))[0].text == "Bakedo"
    assert len((await tool.search_images("", ["Bakedo"]))[0].images) == 1
    tool.close()


@settings(max_examples=60)
@given(
    st.text(max_size=40)
    | st.lists(st.sampled_from(["a", '"', "*", ":^()-+{}", "NEAR", "AND", "title", "\0", "_", "\ud800", "½"])).map(
        " ".join
    )
)
def test_any_query_is_answered_and_never_read_as_syntax(tool: LocalSearchTool, query: str) -> None:
    for ask in (tool.search_text, tool.search_images):
        (result,) = asyncio.run(ask("any post", [query]))
        assert result.status in ("success", "no_result")


def test_operators_in_a_query_are_words() -> None:
    assert fts_words('ada" OR title:*') == '"ada" OR "title"'
    assert fts_words("what is Ada") == '"ada"'
    assert fts_words("x " * 1_000) == '"x"'


async def test_a_rebuilt_index_replaces_the_old_one(tmp_path: Path) -> None:
    build_local_index(tmp_path, [Article("Old", "old", (picture(3),))])
    build_local_index(tmp_path, [Article("New", "new", (picture(4),))])
    tool = LocalSearchTool(tmp_path)
    old, new = await tool.search_images("", ["Old", "New"])
    assert (old.status, [image.width for image in new.images]) == ("no_result", [4])
    tool.close()


@pytest.mark.parametrize(
    "article",
    [
        Article("", "x"),
        Article("x", " "),
        Article("x", "\ud800"),
        Article("x", "x", (b"GIF89a",)),
        Article("x", "x", ("pictures/gone.png",)),
        Article("x", "x", ("../x.png",)),
    ],
)
def test_a_bad_article_leaves_no_index(tmp_path: Path, article: Article) -> None:
    with pytest.raises(ValueError, match="article 2"):
        build_local_index(tmp_path, [ARTICLES[2], article])
    with pytest.raises(LocalIndexError, match="no such index"):
        LocalSearchTool(tmp_path)


async def test_broken_folders_say_so(tmp_path: Path) -> None:
    index = tmp_path / INDEX_NAME
    index.write_bytes(b"no database at all" * 100)
    with pytest.raises(LocalIndexError, match="cannot be read"):
        LocalSearchTool(tmp_path)
    index.unlink()
    sqlite3.connect(index).close()
    with pytest.raises(LocalIndexError, match="index format 0"):
        LocalSearchTool(tmp_path)


async def test_a_picture_path_cannot_leave_the_folder(tmp_path: Path) -> None:
    build_local_index(tmp_path, ARTICLES[:1])
    with sqlite3.connect(tmp_path / INDEX_NAME) as database:
        database.execute("UPDATE picture SET file = '../secret.png'")
    database.close()
    tool = LocalSearchTool(tmp_path)
    with pytest.raises(LocalIndexError, match="leads out of"):
        await tool.search_images("", ["Bakedo"])
    tool.close()


def write_source(root: Path, *rows: object) -> None:
    (root / SOURCE_NAME).write_text("".join(json.dumps(row) + "\n" for row in rows))


async def test_an_index_is_built_from_its_source_and_again_when_the_source_changed(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "look.png").write_bytes(picture(9))
    write_source(
        tmp_path, {"title": "Ada", "text": "one", "picture": "pictures/look.png"}, {"title": "Bo", "text": "2"}
    )
    for text in ("one", "two"):
        ensure_local_index(tmp_path)
        tool = LocalSearchTool(tmp_path)
        assert (await tool.search_text("", ["ada"]))[0].text == text
        assert [image.width for image in (await tool.search_images("", ["ada"]))[0].images] == [9]
        tool.close()
        write_source(tmp_path, {"title": "Ada", "text": "two", "pictures": ["pictures/look.png"]})


def test_an_index_that_fits_its_source_is_left_alone(tmp_path: Path) -> None:
    write_source(tmp_path, {"title": "Ada", "text": "one"})
    ensure_local_index(tmp_path)
    before = (tmp_path / INDEX_NAME).stat().st_mtime_ns
    ensure_local_index(tmp_path)
    assert (tmp_path / INDEX_NAME).stat().st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [SOURCE_NAME, INDEX_NAME]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], r"encyclopaedia\.jsonl:2: must be an object"),
        ({"title": "a"}, r"encyclopaedia\.jsonl:2: text: must be a string"),
        ({"title": "a", "text": "b", "picture": 3}, r"encyclopaedia\.jsonl:2: picture: must be a path"),
        (
            {"title": "a", "text": "b", "picture": "/etc/hostname"},
            r"encyclopaedia\.jsonl:2: picture 0: .*relative path",
        ),
    ],
)
def test_a_broken_source_names_line_and_field(tmp_path: Path, row: object, message: str) -> None:
    write_source(tmp_path, {"title": "Ada", "text": "one"}, row)
    with pytest.raises(LocalIndexError, match=message):
        ensure_local_index(tmp_path)
