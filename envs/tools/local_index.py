"""Writes the index of a local search folder: articles and their pictures into SQLite with FTS5.

    encyclopaedia.jsonl    optional source, a line an article: {"title", "text", "picture": PATH}, or with
                           "pictures": [PATH, …]
    encyclopaedia.sqlite   article(id, title, title_key, text), picture(article, n, file, width, height),
                           article_words: the FTS5 index over title and text; source(sha256)
    pictures/              picture files; `file` and PATH are relative to the folder

Knows nothing of queries. Always holds: an index is written whole or not at all, also when several
processes write the same one at once, and names only pictures inside its folder.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from envs.tools.pictures import UnsafePathError, inside
from sake_ray.bounded_json import JsonRefused, parse_json
from sake_ray.data.images import image_size

INDEX_NAME = "encyclopaedia.sqlite"
SOURCE_NAME = "encyclopaedia.jsonl"
PICTURES = "pictures"
FORMAT_VERSION = 1
MAX_LINE_CHARS = 1_000_000
MAX_SOURCE_BYTES = 4 * 1024**3

_SURROGATE = re.compile("[\ud800-\udfff]")
_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg"}
_SCHEMA = """
CREATE TABLE article(id INTEGER PRIMARY KEY, title TEXT NOT NULL, title_key TEXT NOT NULL, text TEXT NOT NULL);
CREATE INDEX article_title ON article(title_key);
CREATE TABLE picture(
    article INTEGER NOT NULL REFERENCES article(id), n INTEGER NOT NULL, file TEXT NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, PRIMARY KEY (article, n)
);
CREATE TABLE source(sha256 TEXT NOT NULL);
CREATE VIRTUAL TABLE article_words USING fts5(
    title, text, content='article', content_rowid='id', tokenize='unicode61 remove_diacritics 2'
);
"""

logger = logging.getLogger(__name__)


class LocalIndexError(ValueError):
    """A local search folder that cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class Article:
    """One encyclopaedia article: a title, a short text, and its pictures.

    A picture is the bytes of a PNG or JPEG, or the path of a file that already lies in the folder.
    """

    title: str
    text: str
    images: tuple[bytes | str, ...] = ()


def title_key(title: str) -> str:
    """A title as it is compared: case-folded, blanks collapsed, without surrogates SQLite could not store."""
    return " ".join(title.encode("utf-8", "ignore").decode("utf-8").casefold().split())


def build_local_index(folder: str | Path, articles: Iterable[Article], *, source_sha256: str = "") -> int:
    """Write the search folder for `articles`, replacing an older index; returns their number.

    Raises:
        LocalIndexError: an article without title or text, or a picture that is none or lies elsewhere.
    """
    root = Path(folder)
    (root / PICTURES).mkdir(parents=True, exist_ok=True)
    # A name of its own for each writer; the last rename wins, and all of them carry the same index.
    with tempfile.TemporaryDirectory(prefix=".index-", dir=root) as scratch:
        unfinished = Path(scratch) / INDEX_NAME
        with closing(sqlite3.connect(unfinished)) as database:
            database.executescript(_SCHEMA)
            count = 0
            for count, article in enumerate(articles, start=1):
                _insert(database, root, count, article)
            database.execute("INSERT INTO article_words(article_words) VALUES ('rebuild')")
            database.execute("INSERT INTO source VALUES (?)", (source_sha256,))
            database.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
            database.commit()
        unfinished.replace(root / INDEX_NAME)
    return count


def ensure_local_index(folder: str | Path) -> None:
    """Build the index from the folder's `encyclopaedia.jsonl`, unless it is there and from this very file.

    A folder without the source keeps the index it has.

    Raises:
        LocalIndexError: the source is broken; the message names file, line and field.
    """
    root = Path(folder)
    source = root / SOURCE_NAME
    if not source.is_file():
        return
    size = source.stat().st_size
    if size > MAX_SOURCE_BYTES:
        raise LocalIndexError(f"{source}: {size} bytes, at most {MAX_SOURCE_BYTES} are read")
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if _source_of(root / INDEX_NAME) != digest:
        count = build_local_index(root, read_articles(source), source_sha256=digest)
        logger.info("built %s: %d articles", root / INDEX_NAME, count)


def read_articles(source: Path) -> Iterator[Article]:
    """The articles of an `encyclopaedia.jsonl`, one at a time.

    Raises:
        LocalIndexError: a line that is no article; the message names file, line and field.
    """
    with source.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _article(line, f"{source}:{number}")


def _article(line: bytes, where: str) -> Article:
    try:
        row = parse_json(line.decode("utf-8"), max_chars=MAX_LINE_CHARS, max_depth=8)
    except (UnicodeDecodeError, JsonRefused) as error:
        raise LocalIndexError(f"{where}: cannot be read as JSON ({error})") from error
    if not isinstance(row, Mapping):
        raise LocalIndexError(f"{where}: must be an object with title, text and picture")
    for name in ("title", "text"):
        if not isinstance(row.get(name), str):
            raise LocalIndexError(f"{where}: {name}: must be a string")
    pictures = row["pictures"] if "pictures" in row else [row["picture"]] if row.get("picture") else []
    if not isinstance(pictures, list) or not all(isinstance(path, str) for path in pictures):
        raise LocalIndexError(f"{where}: picture: must be a path, pictures: a list of paths")
    return Article(row["title"], row["text"], tuple(pictures))


def _insert(database: sqlite3.Connection, root: Path, number: int, article: Article) -> None:
    name = f"article {number} ({article.title!r})"
    if not article.title.strip() or not article.text.strip():
        raise LocalIndexError(f"{name}: needs a title and a text")
    if _SURROGATE.search(article.title + article.text):
        raise LocalIndexError(f"{name}: holds half a surrogate pair, which is no character; write the text as UTF-8")
    database.execute(
        "INSERT INTO article(id, title, title_key, text) VALUES (?, ?, ?, ?)",
        (number, article.title, title_key(article.title), article.text),
    )
    for n, image in enumerate(article.images):
        # Numbered, not named after the title: a title is free text and no file name.
        stem = str(PurePosixPath(PICTURES, f"{number:06d}_{n}"))
        try:
            file = image if isinstance(image, str) else _write_picture(root, stem, image)
            size = image_size(inside(root, file))
        except (UnsafePathError, ValueError) as error:
            raise LocalIndexError(f"{name}: picture {n}: {error}") from error
        database.execute("INSERT INTO picture VALUES (?, ?, ?, ?, ?)", (number, n, file, *size))


def _write_picture(root: Path, stem: str, image: bytes) -> str:
    suffix = next((suffix for magic, suffix in _SUFFIXES.items() if image.startswith(magic)), None)
    if suffix is None:
        raise ValueError("is neither PNG nor JPEG")
    (root / f"{stem}{suffix}").write_bytes(image)
    return f"{stem}{suffix}"


def _source_of(index: Path) -> str | None:
    """Which source an index was built from; None when there is no index of this format."""
    if not index.is_file():
        return None
    with closing(sqlite3.connect(f"{index.resolve().as_uri()}?mode=ro", uri=True)) as database:
        try:
            if database.execute("PRAGMA user_version").fetchone()[0] != FORMAT_VERSION:
                return None
            digest: str = database.execute("SELECT sha256 FROM source").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise LocalIndexError(f"{index}: cannot be read as an index ({error}); remove it") from error
    return digest
