"""A search engine in a folder: an encyclopaedia in SQLite (FTS5) and its pictures.

Knows nothing of posts, prompts or how the index was written (`local_index`). Always holds: a query is
data, never FTS syntax or SQL; the same index and query give the same article; the index is only read.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from envs.tools.local_index import FORMAT_VERSION, INDEX_NAME, LocalIndexError, title_key
from envs.tools.pictures import UnsafePathError, inside, usable_pictures
from sake_ray.types import QueryResult

MAX_QUERY_WORDS = 16
MAX_QUERY_CHARS = 1_000
# A word in the title says far more about an article than the same word in its text.
TITLE_WEIGHT, TEXT_WEIGHT = 10.0, 1.0

_WORD = re.compile(r"\w+")
# Words that say how a question is put, not what it is about; they would match half of any encyclopaedia.
_QUESTION_WORDS = frozenset(
    _WORD.findall(
        "a an and are about at by did do does for from how in is it logo me of on or photo picture tell that the this "
        "to was were what when where which who whom whose why with"
    )
)
_BY_TITLE = "SELECT id, title, text FROM article WHERE title_key = ? ORDER BY id LIMIT 1"
_BY_WORDS = (
    "SELECT article.id, article.title, article.text "
    "FROM article_words JOIN article ON article.id = article_words.rowid "
    f"WHERE article_words MATCH ? ORDER BY bm25(article_words, {TITLE_WEIGHT}, {TEXT_WEIGHT}), article.id LIMIT 1"
)
_PICTURES_OF = "SELECT file FROM picture WHERE article = ? ORDER BY n LIMIT ?"


@dataclass(frozen=True, slots=True)
class _Hit:
    id: int
    title: str
    text: str


class LocalSearchTool:
    """A `SearchTool` over a folder with an index. Every post sees the same encyclopaedia."""

    def __init__(self, root: str | Path, *, images_per_query: int = 1, max_chars: int = 2_000) -> None:
        """Open the index, read-only.

        Raises:
            LocalIndexError: there is none, or it is not one of ours.
        """
        self._root = Path(root)
        self._images_per_query = images_per_query
        self._max_chars = max_chars
        # One connection under a lock: SQLite answers in well under a millisecond, off the event loop.
        self._lock = threading.Lock()
        self._database = _open(self._root / INDEX_NAME)

    async def search_text(self, example_id: str, queries: Sequence[str]) -> list[QueryResult]:
        """The best article's text a query; see `SearchTool`."""
        return await asyncio.to_thread(lambda: [self._text(query) for query in queries])

    async def search_images(self, example_id: str, queries: Sequence[str]) -> list[QueryResult]:
        """The best article's pictures a query; see `SearchTool`."""
        return await asyncio.to_thread(lambda: [self._images(query) for query in queries])

    def close(self) -> None:
        """Close the index; the tool cannot be used afterwards."""
        with self._lock:
            self._database.close()

    def _text(self, query: str) -> QueryResult:
        with self._lock:
            hit = self._best(query)
        return QueryResult(query, "success", hit.text[: self._max_chars]) if hit else QueryResult(query, "no_result")

    def _images(self, query: str) -> QueryResult:
        with self._lock:
            hit = self._best(query)
            rows = self._database.execute(_PICTURES_OF, (hit.id, self._images_per_query)).fetchall() if hit else []
        images = usable_pictures([self._path(file) for (file,) in rows])
        return QueryResult(query, "success", images=images) if images else QueryResult(query, "no_result")

    def _best(self, query: str) -> _Hit | None:
        """The article of exactly this title, else the best by bm25 over the query's words."""
        query = query[:MAX_QUERY_CHARS]
        row = self._database.execute(_BY_TITLE, (title_key(query),)).fetchone()
        if row is None:
            words = fts_words(query)
            row = self._database.execute(_BY_WORDS, (words,)).fetchone() if words else None
        return None if row is None else _Hit(*row)

    def _path(self, file: str) -> Path:
        try:
            return inside(self._root, file)
        except UnsafePathError as error:
            raise LocalIndexError(f"{self._root / INDEX_NAME}: picture.file {error}; build the index again") from error


def fts_words(query: str) -> str:
    """An FTS5 expression for the telling words of any text: each quoted, any may match; "" without any.

    Only letters, digits and underscores come through, and always in quotes, so `AND`, `NEAR`, `*`, `:`
    and quotes in a query have no meaning to FTS5.
    """
    words = list(dict.fromkeys(_WORD.findall(title_key(query))))
    telling = [word for word in words if word not in _QUESTION_WORDS]
    return " OR ".join(f'"{word}"' for word in telling[:MAX_QUERY_WORDS])


def _open(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise LocalIndexError(f"{path}: no such index; set search.root to a folder that build_local_index wrote")
    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError as error:
        database.close()
        raise LocalIndexError(f"{path}: cannot be read as an index ({error}); build it again") from error
    if version != FORMAT_VERSION:
        database.close()
        raise LocalIndexError(f"{path}: index format {version}, this version reads {FORMAT_VERSION}; build it again")
    return database
