"""A search engine in a folder: documents in SQLite (FTS5), their pictures, and pictures with captions.

Knows nothing of posts, prompts or how the index was written (`local_index`). Always holds: a query is
data, never FTS syntax or SQL; the same index and query give the same document; the index is only read.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from envs.tools.local_index import FORMAT_VERSION, INDEX_NAME, READABLE_VERSIONS, LocalIndexError, title_key
from envs.tools.local_passage import fold, passage
from envs.tools.local_sources import CAPTIONS, DOCUMENTS, SOURCE_NAME
from envs.tools.pictures import UnsafePathError, inside, usable_pictures
from sake_ray.types import ImageRef, QueryResult

MAX_QUERY_WORDS = 16
MAX_QUERY_CHARS = 1_000
MAX_RESULTS = 20
# Captioned pictures looked at beyond those that are shown: some may turn out to be damaged, or the same once more.
SPARE_PICTURES = 8
# Documents that common words of a query may match together; words beyond are left out, the most common ones first.
# (Comparing costs about a millisecond a thousand.)
MAX_COMPARED = 20_000
# A word in the title says far more about an article than the same word in its text.
TITLE_WEIGHT, TEXT_WEIGHT = 10.0, 1.0

_BETWEEN = "\n\n"
_WORD = re.compile(r"\w+")
# Words that say how a question is put, not what it is about; they would match half of any encyclopaedia.
_QUESTION_WORDS = frozenset(
    _WORD.findall(
        "a an and are about at by did do does for from how in is it logo me of on or photo picture tell that the this "
        "to was were what when where which who whom whose why with"
    )
)
_BY_TITLE = "SELECT id FROM article WHERE title_key = ? ORDER BY id LIMIT ?"
# The index of words alone is sorted; documents are fetched for what is left.
_BY_WORDS = (
    "SELECT rowid FROM article_words WHERE article_words MATCH ? "
    f"ORDER BY bm25(article_words, {TITLE_WEIGHT}, {TEXT_WEIGHT}), rowid LIMIT ?"
)
_COMMON = "SELECT rows FROM common WHERE words = ? AND term = ?"
_ARTICLE = "SELECT title, text FROM article WHERE id = ?"
_PICTURES_OF = "SELECT file FROM picture WHERE article = ? ORDER BY n LIMIT ?"
_BY_CAPTION = "SELECT rowid FROM caption_words WHERE caption_words MATCH ? ORDER BY bm25(caption_words), rowid LIMIT ?"
_CAPTIONED = "SELECT file FROM captioned WHERE id = ?"


class LocalSearchTool:
    """A `SearchTool` over a folder with an index. Every post sees the same documents."""

    def __init__(
        self, root: str | Path, *, images_per_query: int = 1, max_chars: int = 2_000, results_per_query: int = 1
    ) -> None:
        """Open the index, read-only.

        Args:
            root: the folder.
            images_per_query: pictures a query may give.
            max_chars: characters of a query's text, whatever the number of documents in it.
            results_per_query: documents a text query may give. One is shown as its text alone; several are blocks
                `TITLE: TEXT` with an empty line between them, each with its part of the characters.

        Raises:
            LocalIndexError: there is none, or it is not one of ours.
        """
        if not 1 <= results_per_query <= MAX_RESULTS:
            raise ValueError(f"results_per_query={results_per_query}: must be 1 to {MAX_RESULTS}")
        self._root = Path(root)
        self._images_per_query = images_per_query
        self._max_chars = max_chars
        self._results_per_query = results_per_query
        # One connection under a lock: SQLite answers in milliseconds, off the event loop.
        self._lock = threading.Lock()
        self._database, version = _open(self._root / INDEX_NAME)
        self._extended = version >= FORMAT_VERSION

    async def search_text(self, example_id: str, queries: Sequence[str]) -> list[QueryResult]:
        """The best documents' text a query; see `SearchTool`."""
        return await asyncio.to_thread(lambda: [self._text(query) for query in queries])

    async def search_images(self, example_id: str, queries: Sequence[str]) -> list[QueryResult]:
        """The best document's pictures a query, else those whose captions fit best; see `SearchTool`."""
        return await asyncio.to_thread(lambda: [self._images(query) for query in queries])

    def close(self) -> None:
        """Close the index; the tool cannot be used afterwards."""
        with self._lock:
            self._database.close()

    def _text(self, query: str) -> QueryResult:
        with self._reading():
            titled, others = self._best(query, self._results_per_query)
            rows = [(*self._row(_ARTICLE, id_), id_ in titled) for id_ in titled + others]
        if not rows:
            return QueryResult(query, "no_result")
        words = _telling_words(query)
        if self._results_per_query == 1:
            ((_, text, is_title),) = rows
            return QueryResult(query, "success", passage(text, () if is_title else words, self._max_chars))
        blocks = []
        for title, text, is_title in rows:
            room = (self._max_chars + len(_BETWEEN)) // len(rows) - len(_BETWEEN) - len(title) - 2
            blocks.append(f"{title}: {passage(text, () if is_title else words, max(room, 0))}")
        return QueryResult(query, "success", _BETWEEN.join(blocks)[: self._max_chars])

    def _images(self, query: str) -> QueryResult:
        with self._reading():
            titled, others = self._best(query, 1)
            rows = [
                row
                for id_ in titled + others
                for row in self._database.execute(_PICTURES_OF, (id_, self._images_per_query))
            ]
        images = usable_pictures([self._path("picture", file) for (file,) in rows])
        if not images and self._extended:
            images = self._captioned(query)
        return QueryResult(query, "success", images=images) if images else QueryResult(query, "no_result")

    def _captioned(self, query: str) -> tuple[ImageRef, ...]:
        """The pictures whose captions fit best, each once, as many as are asked for and can be shown."""
        if not self._images_per_query:
            return ()
        with self._reading():
            words = self._expression("caption_words", query)
            if not words:
                return ()
            ids = self._database.execute(_BY_CAPTION, (words, self._images_per_query + SPARE_PICTURES)).fetchall()
            files = [self._row(_CAPTIONED, id_)[0] for (id_,) in ids]
        found: list[ImageRef] = []
        for file in dict.fromkeys(files):
            found += usable_pictures([self._path("captioned", file)])
            if len(found) == self._images_per_query:
                break
        return tuple(found)

    def _best(self, query: str, limit: int) -> tuple[list[int], list[int]]:
        """The documents of exactly this title, then the best by bm25 over the query's words, `limit` together."""
        query = query[:MAX_QUERY_CHARS]
        titled = [id_ for (id_,) in self._database.execute(_BY_TITLE, (title_key(query), limit))]
        words = "" if len(titled) == limit else self._expression("article_words", query)
        if not words:
            return titled, []
        rows = self._database.execute(_BY_WORDS, (words, limit + len(titled)))
        return titled, [id_ for (id_,) in rows if id_ not in titled][: limit - len(titled)]

    def _expression(self, index: str, query: str) -> str:
        """The FTS5 expression for a query: its rarest words, as many as do not match too much to be compared."""
        words = _telling_words(query)
        rows = dict.fromkeys(words, 0)
        if self._extended:
            for word in words:
                found = self._database.execute(_COMMON, (index, fold(word))).fetchone()
                rows[word] = 0 if found is None else found[0]
        kept, total = set[str](), 0
        for word in sorted(words, key=rows.__getitem__):
            total += rows[word]
            if kept and total > MAX_COMPARED:
                break
            kept.add(word)
        return _fts(word for word in words if word in kept)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """The database to oneself; what is wrong with it is said with its name."""
        with self._lock:
            try:
                yield
            except sqlite3.DatabaseError as error:
                index = self._root / INDEX_NAME
                raise LocalIndexError(f"{index}: is damaged ({error}); remove it and build it again") from error

    def _row(self, statement: str, id_: int) -> tuple[Any, ...]:
        row: tuple[Any, ...] | None = self._database.execute(statement, (id_,)).fetchone()
        if row is None:
            raise sqlite3.DatabaseError(f"row {id_} is indexed and not there")
        return row

    def _path(self, table: str, file: str) -> Path:
        try:
            return inside(self._root, file)
        except UnsafePathError as error:
            raise LocalIndexError(f"{self._root / INDEX_NAME}: {table}.file {error}; build the index again") from error


def fts_words(query: str) -> str:
    """An FTS5 expression for the telling words of any text: each quoted, any may match; "" without any.

    Only letters, digits and underscores come through, and always in quotes, so `AND`, `NEAR`, `*`, `:`
    and quotes in a query have no meaning to FTS5.
    """
    return _fts(_telling_words(query))


def _fts(words: Iterable[str]) -> str:
    return " OR ".join(f'"{word}"' for word in words)


def _telling_words(query: str) -> list[str]:
    words = dict.fromkeys(_WORD.findall(title_key(query[:MAX_QUERY_CHARS])))
    return [word for word in words if word not in _QUESTION_WORDS][:MAX_QUERY_WORDS]


def _open(path: Path) -> tuple[sqlite3.Connection, int]:
    """The index and the version of its format."""
    if not path.is_file():
        raise LocalIndexError(
            f"{path}: no such index; set search.root to a folder that holds one, {SOURCE_NAME}, {DOCUMENTS}/ with "
            f"documents, or {CAPTIONS}.jsonl"
        )
    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError as error:
        database.close()
        raise LocalIndexError(f"{path}: cannot be read as an index ({error}); build it again") from error
    if version not in READABLE_VERSIONS:
        database.close()
        raise LocalIndexError(f"{path}: index format {version}, this version reads {FORMAT_VERSION}; build it again")
    return database, version
