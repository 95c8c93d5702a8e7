"""A folder of a user's own: which files are indexed, what is found, and what a broken one says."""

from __future__ import annotations

import gzip
import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from envs.tools import local, local_index, local_rows, local_sources
from envs.tools.local import LocalSearchTool
from envs.tools.local_index import (
    INDEX_NAME,
    SOURCE_NAME,
    Article,
    Caption,
    LocalIndexError,
    build_local_index,
    ensure_local_index,
)

Row = dict[str, Any]


def picture(path: Path, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, 5)).save(path)


def json_lines(path: Path, rows: Iterable[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def parquet(path: Path, rows: list[Row], row_group: int = 1_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=row_group)


async def texts(root: Path, *queries: str, **options: int) -> list[str]:
    ensure_local_index(root)
    tool = LocalSearchTool(root, **options)
    found = await tool.search_text("any post", queries)
    tool.close()
    return [result.text for result in found]


async def widths(root: Path, *queries: str, images: int = 1) -> list[list[int]]:
    ensure_local_index(root)
    tool = LocalSearchTool(root, images_per_query=images)
    found = await tool.search_images("any post", queries)
    tool.close()
    return [[image.width for image in result.images] for result in found]


@pytest.mark.parametrize("where", ["", "documents"])
async def test_documents_of_every_form_are_found(tmp_path: Path, where: str) -> None:
    folder = tmp_path / where
    json_lines(folder / "a.jsonl", [{"title": "Ada", "text": "lines", "score": float("nan"), "more": [[1]]}])
    (folder / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"title": "Bo", "text": "marked"}\r\n\r\n{"title":"Bea","text":"b"}')
    json_lines(folder / "c.jsonl.gz", [{"title": "Cy", "text": "packed"}])
    picture(tmp_path / "look.png", 7)
    rows = [{"title": f"D{n}", "text": f"row {n}", "picture": "look.png" if n == 2 else None} for n in range(300)]
    parquet(folder / "d.parquet", rows, row_group=70)
    (folder / "notes.md").write_text("not read")
    found = await texts(tmp_path, "ada", "bo", "bea", "cy", "d0", "d299", "notes")
    assert found == ["lines", "marked", "b", "packed", "row 0", "row 299", ""]
    assert await widths(tmp_path, "d2", "d3") == [[7], []]


def write_captions(root: Path, form: str, rows: list[Row]) -> None:
    if form == "parquet":
        parquet(root / "captions.parquet", rows)
    elif form == "csv":
        lines = ["\ufefffile,note,caption", *(f'{row["file"]},x,"{row["caption"]}"' for row in rows)]
        (root / "captions.csv").write_text("\n".join(lines), encoding="utf-8")
    else:
        json_lines(root / f"captions.{form}", rows)


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "csv", "parquet"])
async def test_pictures_are_found_by_their_captions(tmp_path: Path, form: str) -> None:
    for width in (11, 12, 13):
        picture(tmp_path / "shots" / f"{width}.png", width)
    rows = [
        {"file": "shots/11.png", "caption": "A red boat, on a lake"},
        {"file": "shots/12.png", "caption": "A boat"},
        {"file": "shots/12.png", "caption": "The same boat again"},
        {"file": "shots/13.png", "caption": "Ada at her desk"},
    ]
    write_captions(tmp_path, form, rows)
    assert await widths(tmp_path, "red boat", "ada", "nobody", "") == [[11], [13], [], []]
    assert await widths(tmp_path, "boat lake", images=3) == [[11, 12]]
    assert await texts(tmp_path, "red boat") == [""]


async def test_a_caption_may_lie_in_a_text_file_beside_its_picture(tmp_path: Path) -> None:
    picture(tmp_path / "pictures" / "one.JPG", 11)
    (tmp_path / "pictures" / "one.txt").write_text("a red boat\n")
    (tmp_path / "pictures" / "README.txt").write_text("no picture of mine")
    assert await widths(tmp_path, "boat", "readme") == [[11], []]
    (tmp_path / "pictures" / "one.txt").write_text("a green tree\n")
    assert await widths(tmp_path, "boat", "tree") == [[], [11]]


async def test_a_documents_own_pictures_come_before_captioned_ones(tmp_path: Path) -> None:
    for width in (11, 12):
        picture(tmp_path / f"{width}.png", width)
    json_lines(
        tmp_path / "documents" / "a.jsonl",
        [{"title": "Ada", "text": "x", "picture": "11.png"}, {"title": "Bo", "text": "y", "picture": None}],
    )
    write_captions(tmp_path, "jsonl", [{"file": "12.png", "caption": "Ada and Bo"}])
    assert await widths(tmp_path, "Ada", "Bo") == [[11], [12]]


async def test_a_captioned_picture_that_cannot_be_shown_makes_room_for_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG and no more")
    picture(tmp_path / "good.png", 11)
    write_captions(
        tmp_path, "jsonl", [{"file": "bad.png", "caption": "a boat"}, {"file": "good.png", "caption": "a boat as well"}]
    )
    assert await widths(tmp_path, "a boat") == [[11]]
    assert "bad.png" in caplog.text


@pytest.mark.parametrize("hashed_files", [10_000, 0])
async def test_an_index_follows_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashed_files: int) -> None:
    monkeypatch.setattr(local_sources, "MAX_HASHED_FILES", hashed_files)
    first, second = tmp_path / "documents" / "0.jsonl", tmp_path / "documents" / "a.jsonl"
    changes: list[tuple[Callable[[], object], str]] = [
        (lambda: json_lines(second, [{"title": "Ada", "text": "one"}]), "one"),
        (lambda: json_lines(second, [{"title": "Ada", "text": "other"}]), "other"),
        (lambda: json_lines(first, [{"title": "Ada", "text": "first file"}]), "first file"),
        (first.unlink, "other"),
    ]
    for change, text in changes:
        change()
        assert await texts(tmp_path, "ada") == [text]
        built = (tmp_path / INDEX_NAME).stat()
        assert await texts(tmp_path, "ada") == [text]
        assert (tmp_path / INDEX_NAME).stat().st_ino == built.st_ino, "built again for nothing"


def test_of_several_processes_one_builds_the_index(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    json_lines(tmp_path / "documents" / "a.jsonl", [{"title": f"Ada {n}", "text": "one"} for n in range(2_000)])
    (tmp_path / f"{local_index.SCRATCH}killed").mkdir()  # left by one that was killed
    caplog.set_level("INFO", logger=local_index.__name__)
    with ThreadPoolExecutor(4) as threads:  # each opens the folder for itself, as processes do
        list(threads.map(ensure_local_index, [tmp_path] * 8))
    assert caplog.text.count("built ") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["documents", INDEX_NAME]


async def test_an_index_alone_answers_also_one_of_the_first_format(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Other files beside it are not taken for its documents: MiniWorld's folder has an `entities.jsonl`."""
    json_lines(tmp_path / SOURCE_NAME, [{"title": "Ada", "text": "one"}])
    json_lines(tmp_path / "entities.jsonl", [{"name": "Ada"}])
    assert await texts(tmp_path, "ada") == ["one"]
    (tmp_path / SOURCE_NAME).unlink()
    assert await texts(tmp_path, "ada") == ["one"]
    assert "entities.jsonl is not read" in caplog.text
    with sqlite3.connect(tmp_path / INDEX_NAME) as database:
        for table in ("captioned", "caption_words", "common"):
            database.execute(f"DROP TABLE {table}")
        database.execute("ALTER TABLE source DROP COLUMN loose")
        database.execute("PRAGMA user_version = 1")
    database.close()
    assert await texts(tmp_path, "ada", "one") == ["one", "one"]
    assert await widths(tmp_path, "ada") == [[]]
    json_lines(tmp_path / SOURCE_NAME, [{"title": "Ada", "text": "one"}])
    assert await texts(tmp_path, "ada") == ["one"]
    with sqlite3.connect(tmp_path / INDEX_NAME) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (2,)
    database.close()


async def test_an_index_that_a_program_wrote_is_not_replaced_by_files_that_turn_up(tmp_path: Path) -> None:
    picture(tmp_path / "boat.png", 11)
    build_local_index(tmp_path, [Article("Ada", "one")], captions=[Caption("boat.png", "a boat")])
    json_lines(tmp_path / "loose.jsonl", [{"title": "Ada", "text": "two"}])
    assert (await texts(tmp_path, "ada"), await widths(tmp_path, "boat")) == (["one"], [[11]])
    json_lines(tmp_path / "documents" / "a.jsonl", [{"title": "Ada", "text": "two"}])
    with pytest.raises(LocalIndexError, match=r"documents/a\.jsonl; remove the index"):
        ensure_local_index(tmp_path)


async def test_what_is_shown_of_a_long_document_and_of_several(tmp_path: Path) -> None:
    long = "Of nothing. " * 200 + "The boat lies here. " + "Of nothing. " * 200
    json_lines(
        tmp_path / "documents" / "a.jsonl", [{"title": "Ada", "text": long}, {"title": "Bo", "text": "owns a boat"}]
    )
    (by_title, by_words) = await texts(tmp_path, "Ada", "who lies where", max_chars=60)
    assert by_title == long[:60]
    assert by_words.startswith("… ") and "The boat lies here." in by_words and len(by_words) <= 60
    (several,) = await texts(tmp_path, "bo", max_chars=100, results_per_query=2)
    assert several == "Bo: owns a boat"
    (several,) = await texts(tmp_path, "boat", max_chars=100, results_per_query=2)
    blocks = several.split("\n\n")
    assert sorted(block.partition(":")[0] for block in blocks) == ["Ada", "Bo"] and len(several) <= 100


async def test_common_words_give_way_to_rare_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MAX_COMPARED", 20)
    build_local_index(tmp_path, [Article(f"D{n}", f"time and{' tide' * (n < 12)} {n}") for n in range(50)])
    with sqlite3.connect(tmp_path / INDEX_NAME) as database:
        database.execute("INSERT INTO common SELECT 'article_words', 'time', 50")
        database.execute("INSERT INTO common SELECT 'article_words', 'tide', 12")
    database.close()
    tool = LocalSearchTool(tmp_path)
    assert tool._expression("article_words", "time tide 7") == '"tide" OR "7"'
    assert tool._expression("article_words", "Time") == '"time"'
    assert (await tool.search_text("", ["time"]))[0].status == "success"
    tool.close()


GOOD = {"title": "Ada", "text": "one"}
PICTURED = {"file": "look.png", "caption": "a look"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("documents/a.jsonl", [GOOD, [1]], r"a\.jsonl:2: must be an object"),
        ("documents/a.jsonl", [GOOD, {"text": "x"}], r"a\.jsonl:2: title: must be a string; the row has text"),
        ("documents/a.jsonl", [GOOD, {"title": "x", "text": " "}], r"a\.jsonl:2: text: is empty"),
        ("documents/a.jsonl", [GOOD, {"title": "x" * 1_001, "text": "x"}], r"a\.jsonl:2: title: 1001 characters"),
        ("documents/a.jsonl", [GOOD, {"title": "x", "text": "\ud800"}], r"a\.jsonl:2: text: holds half a surrogate"),
        ("documents/a.jsonl", [{**GOOD, "pictures": ["gone.png"]}], r"a\.jsonl:1: picture 0: .*gone\.png"),
        ("documents/a.jsonl", [{**GOOD, "pictures": ["\ud800"]}], r"a\.jsonl:1: picture 0: path: holds half"),
        ("documents/a.jsonl", b'{"title"\n', r"a\.jsonl:1: cannot be read as JSON"),
        ("documents/a.jsonl", b"\xff\n", r"a\.jsonl:1: cannot be read as JSON"),
        ("documents/a.jsonl", b"\n" + b"x" * 2_000, r"a\.jsonl:2: a line longer than"),
        ("documents/a.jsonl", b"", "hold no document and no caption"),
        ("documents/a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz:1: damaged gzip"),
        (
            "documents/a.jsonl.gz",
            gzip.compress(json.dumps(GOOD).encode(), mtime=0)[:-9],
            r"a\.jsonl\.gz:1: damaged gzip",
        ),
        ("documents/a.parquet", b"no parquet", r"a\.parquet:1: .*not readable as parquet"),
        ("documents/a.parquet", [GOOD, {"title": "x", "text": None}], r"a\.parquet:2: text: must be a string"),
        ("documents/a.parquet", [{"prompt": "x"}], r"a\.parquet:1: title: must be a string"),
        ("mine.parquet", [{"title": 3, "text": "x"}], r"mine\.parquet:1: title: must be a string"),
        ("captions.jsonl", [PICTURED, {"file": "look.png"}], r"captions\.jsonl:2: caption: must be a string"),
        ("captions.jsonl", [{**PICTURED, "file": "gone.png"}], r"captions\.jsonl:1: file: .*gone\.png is no file"),
        ("captions.jsonl", [{**PICTURED, "file": "../look.png"}], r"captions\.jsonl:1: file: .*leads out of"),
        ("captions.jsonl", [{**PICTURED, "file": "x" * 300}], r"captions\.jsonl:1: file: "),
        ("captions.csv", b"picture,caption\nlook.png,x\n", r"captions\.csv:2: file: must be a string"),
        ("captions.csv", b"file,caption\nlook.png\n", r"captions\.csv:2: 1 cells under 2 columns"),
        ("captions.csv", b'file,caption\nlook.png,"open\n', r"captions\.csv:2: cannot be read as CSV"),
        ("captions.parquet", [{"file": "look.png", "caption": ""}], r"captions\.parquet:1: caption: is empty"),
        ("pictures/one.txt", b"\xff", r"one\.txt: cannot be read as text"),
        ("pictures/one.txt", b"  ", r"one\.txt: caption: is empty"),
    ],
)
def test_a_broken_file_names_itself_the_row_and_the_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes | list[Row], message: str
) -> None:
    monkeypatch.setattr(local_rows, "MAX_LINE_BYTES", 1_500)
    picture(tmp_path / "look.png", 5)
    picture(tmp_path / "pictures" / "one.png", 5)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".parquet":
        parquet(path, content)
    else:
        json_lines(path, content)
    with pytest.raises(LocalIndexError, match=message):
        ensure_local_index(tmp_path)
    assert not list(tmp_path.glob(".index-*")) and not (tmp_path / INDEX_NAME).exists()


def test_too_many_rows_or_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    json_lines(tmp_path / "documents" / "a.jsonl.gz", [GOOD] * 50)
    monkeypatch.setattr(local_index, "MAX_ROWS", 49)
    with pytest.raises(LocalIndexError, match=r"a\.jsonl\.gz:50: more than 49 documents"):
        ensure_local_index(tmp_path)
    monkeypatch.setattr(local_rows, "MAX_FILE_BYTES", 100)
    with pytest.raises(LocalIndexError, match=r"a\.jsonl\.gz:4: more than 100 bytes"):
        ensure_local_index(tmp_path)
    monkeypatch.setattr(local_sources, "MAX_SOURCE_BYTES", 10)
    with pytest.raises(LocalIndexError, match="bytes of documents, at most 10"):
        ensure_local_index(tmp_path)


def _whole(suffix: str) -> bytes:
    rows = [{"title": f"Title {n}", "text": "some text é", "picture": None} for n in range(5)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        if suffix == ".parquet":
            parquet(path, rows, row_group=2)
        elif suffix == ".csv":
            path.write_bytes(b'file,caption\r\npictures/a.png,"one, ""two"""\r\npictures/a.png,"three\nfour"\r\n')
        else:
            json_lines(path, rows)
        return path.read_bytes()


WHOLE = {suffix: _whole(suffix) for suffix in (".jsonl", ".jsonl.gz", ".csv", ".parquet")}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_a_damaged_file_is_an_error_of_ours_or_none(suffix: str, data: st.DataObject) -> None:
    content = bytearray(WHOLE[suffix])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
        if not content:
            break
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        path.write_bytes(content)
        try:
            for where, _ in local_rows.read_rows(path, ("title", "text", "file", "caption")):
                assert where.startswith(f"{path}:")
        except LocalIndexError as error:
            assert str(path) in str(error)


def test_a_damaged_index_is_said_so_when_it_is_asked(tmp_path: Path) -> None:
    build_local_index(tmp_path, [Article(f"Title {n}", "word " * 200) for n in range(200)])
    data = bytearray((tmp_path / INDEX_NAME).read_bytes())
    data[8_192:] = bytes(len(data) - 8_192)
    (tmp_path / INDEX_NAME).write_bytes(data)
    tool = LocalSearchTool(tmp_path)
    with pytest.raises(LocalIndexError, match="is damaged"):
        tool._text("word")
    tool.close()
