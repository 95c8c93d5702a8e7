"""Writes the index of a local search folder: documents and captioned pictures into SQLite with FTS5.

    encyclopaedia.sqlite   article(id, title, title_key, text), picture(article, n, file, width, height),
                           article_words: the FTS5 index over title and text; captioned(id, file, caption),
                           caption_words: the one over captions; common(words, term, rows): how often words occur
                           that occur often; source(sha256, loose): what it was built from
    pictures/              where pictures that come as bytes are written; every `file` is relative to the folder

What it is built from is said in `local_sources`. Knows nothing of queries. Always holds: an index is written whole or
not at all, also when several processes write the same one at once, with memory that does not grow with the folder; it
names only pictures inside its folder.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from envs.tools.local_rows import LocalIndexError
from envs.tools.local_sources import (
    DOCUMENTS,
    PICTURES,
    SOURCE_NAME,
    Article,
    Caption,
    Sources,
    check_article,
    check_caption,
    find_sources,
    path_inside,
)
from sake_ray.data.images import ImageError, image_size

__all__ = [
    "FORMAT_VERSION",
    "INDEX_NAME",
    "SOURCE_NAME",
    "Article",
    "Caption",
    "LocalIndexError",
    "build_local_index",
    "ensure_local_index",
    "title_key",
]

INDEX_NAME = "encyclopaedia.sqlite"
SCRATCH = ".index-"
"""How the folders begin in which an index is written before it is whole."""
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, FORMAT_VERSION)
"""Version 1 has no captions. A folder with nothing but such an index still answers as it did."""
MAX_ROWS = 50_000_000
PROGRESS_ROWS = 100_000
COMMON_ROWS = 5_000
"""A word in so many rows is a common one, whose number is kept: a search has to be sparing with such words."""

_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg"}
_TOKENS = "tokenize='unicode61 remove_diacritics 2'"
# The file is thrown away when anything goes wrong, so it needs no journal of its own.
_SCHEMA = f"""
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -65536;
CREATE TABLE article(id INTEGER PRIMARY KEY, title TEXT NOT NULL, title_key TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE picture(
    article INTEGER NOT NULL REFERENCES article(id), n INTEGER NOT NULL, file TEXT NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, PRIMARY KEY (article, n)
);
CREATE TABLE captioned(id INTEGER PRIMARY KEY, file TEXT NOT NULL, caption TEXT NOT NULL);
CREATE TABLE source(sha256 TEXT NOT NULL, loose INTEGER NOT NULL);
CREATE TABLE common(
    words TEXT NOT NULL, term TEXT NOT NULL, rows INTEGER NOT NULL, PRIMARY KEY (words, term)
) WITHOUT ROWID;
CREATE VIRTUAL TABLE article_words USING fts5(title, text, content='article', content_rowid='id', {_TOKENS});
CREATE VIRTUAL TABLE caption_words USING fts5(caption, content='captioned', content_rowid='id', {_TOKENS});
"""
_FINISH = (
    "CREATE INDEX article_title ON article(title_key)",
    "INSERT INTO article_words(article_words) VALUES ('rebuild')",
    "INSERT INTO caption_words(caption_words) VALUES ('rebuild')",
    "CREATE VIRTUAL TABLE temp.article_terms USING fts5vocab(main, article_words, row)",
    "CREATE VIRTUAL TABLE temp.caption_terms USING fts5vocab(main, caption_words, row)",
    f"INSERT INTO common SELECT 'article_words', term, doc FROM temp.article_terms WHERE doc >= {COMMON_ROWS}",
    f"INSERT INTO common SELECT 'caption_words', term, doc FROM temp.caption_terms WHERE doc >= {COMMON_ROWS}",
    f"PRAGMA user_version = {FORMAT_VERSION}",
)

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Made:
    """What an index says of its making: the digest of its files ("": built by other code), and whether these were
    merely lying there."""

    version: int
    digest: str
    loose: bool


def title_key(title: str) -> str:
    """A title as it is compared: case-folded, blanks collapsed, without surrogates SQLite could not store."""
    return " ".join(title.encode("utf-8", "ignore").decode("utf-8").casefold().split())


def build_local_index(folder: str | Path, articles: Iterable[Article], *, captions: Iterable[Caption] = ()) -> int:
    """Write the search folder for `articles` and captioned pictures, replacing an older index; returns the number of
    articles. An index made like this counts as the folder's only source: see `ensure_local_index`.

    Raises:
        LocalIndexError: an article without title or text, or a picture that is none or lies elsewhere.
    """
    placed = ((f"article {n} ({article.title!r:.80})", article) for n, article in enumerate(articles, start=1))
    named = ((f"caption {n} ({caption.file!r:.80})", caption) for n, caption in enumerate(captions, start=1))
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(root):
        return _build(root, placed, named, _Made(FORMAT_VERSION, "", False))[0]


def ensure_local_index(folder: str | Path) -> None:
    """Build the index from the folder's files (see `local_sources`), unless it is there and from these very files.

    A folder without such files keeps the index it has. Of several processes that find an index missing, one builds it
    and the others wait, where the file system has locks; where it has none, each builds it, and one of them stays.

    Raises:
        LocalIndexError: a file is broken; the message names file, row and field.
    """
    root = Path(folder)
    if _outdated(root) is None:
        return
    with _one_at_a_time(root):
        job = _outdated(root)  # whoever held the lock may have built it
        if job is None:
            return
        sources, made = job
        logger.info("building %s from %s", root / INDEX_NAME, _names(sources))
        documents, pictures = _build(root, sources.articles(), sources.captioned(), made, empty=False)
        logger.info("built %s: %d documents, %d captioned pictures", root / INDEX_NAME, documents, pictures)


def _outdated(root: Path) -> tuple[Sources, _Made] | None:
    """What an index has to be built from; None where the one that is there will do, or there is nothing."""
    index = root / INDEX_NAME
    made = _made(index)
    sources = find_sources(root, loose=made is None or made.loose)
    if not sources.files:
        if made is not None and made.digest and (others := find_sources(root)).files:
            logger.warning(
                "%s is used as it is: what it was built from is gone, and %s is not read; remove the index "
                "to have it built from that",
                index,
                _names(others),
            )
        return None
    if made is not None and not made.digest and not any(path.name == SOURCE_NAME for path in sources.documents):
        raise LocalIndexError(
            f"{index}: was not built from files in this folder, which now holds {_names(sources)}; remove the index to "
            "have it built from these, or move these elsewhere"
        )
    wanted = _Made(FORMAT_VERSION, sources.digest(), sources.loose)
    return None if made == wanted else (sources, wanted)


def _names(sources: Sources) -> str:
    names = [path.relative_to(sources.root).as_posix() for path in sources.files]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more files" if len(names) > 5 else "")


def _build(
    root: Path,
    articles: Iterable[tuple[str, Article]],
    captions: Iterable[tuple[str, Caption]],
    made: _Made,
    *,
    empty: bool = True,
) -> tuple[int, int]:
    """Write the index; returns the numbers of articles and captions. Without `empty`, one of nothing is refused."""
    try:
        # A name of its own for each writer; the last rename wins, and all of them carry the same index.
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=root) as scratch:
            unfinished = Path(scratch) / INDEX_NAME
            with closing(sqlite3.connect(unfinished)) as database:
                counts = _fill(database, root, articles, captions, made)
            if not empty and not any(counts):
                raise LocalIndexError(f"{root}: its files hold no document and no caption; see {DOCUMENTS}/")
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(root / INDEX_NAME)
    except (OSError, sqlite3.Error) as error:
        raise LocalIndexError(
            f"{root / INDEX_NAME}: cannot be written ({error}); the folder must be writable and have room for an index "
            "about twice the size of its documents"
        ) from error
    return counts


def _fill(
    database: sqlite3.Connection,
    root: Path,
    articles: Iterable[tuple[str, Article]],
    captions: Iterable[tuple[str, Caption]],
    made: _Made,
) -> tuple[int, int]:
    database.executescript(_SCHEMA)
    documents = pictures = 0
    for documents, (where, article) in enumerate(_counted(articles, "documents"), start=1):
        _insert(database, root, where, documents, article)
    for pictures, (where, caption) in enumerate(_counted(captions, "captions"), start=1):
        check_caption(root, where, caption)
        database.execute("INSERT INTO captioned VALUES (?, ?, ?)", (pictures, caption.file, caption.caption))
    database.execute("INSERT INTO source VALUES (?, ?)", (made.digest, made.loose))
    for statement in _FINISH:
        database.execute(statement)
    database.commit()
    return documents, pictures


def _counted(rows: Iterable[tuple[str, _T]], what: str) -> Iterator[tuple[str, _T]]:
    for number, row in enumerate(rows, start=1):
        if number > MAX_ROWS:
            raise LocalIndexError(f"{row[0]}: more than {MAX_ROWS} {what}")
        if number % PROGRESS_ROWS == 0:
            logger.info("indexing: %d %s so far", number, what)
        yield row


def _insert(database: sqlite3.Connection, root: Path, where: str, number: int, article: Article) -> None:
    check_article(where, article)
    database.execute(
        "INSERT INTO article(id, title, title_key, text) VALUES (?, ?, ?, ?)",
        (number, article.title, title_key(article.title), article.text),
    )
    for n, image in enumerate(article.images):
        # Numbered, not named after the title: a title is free text and no file name.
        stem = str(PurePosixPath(PICTURES, f"{number:06d}_{n}"))
        which = f"{where}: picture {n}"
        file = image if isinstance(image, str) else _write_picture(root, stem, which, image)
        try:
            size = image_size(path_inside(root, which, file))
        except ImageError as error:
            raise LocalIndexError(f"{which}: {error}") from error
        database.execute("INSERT INTO picture VALUES (?, ?, ?, ?, ?)", (number, n, file, *size))


def _write_picture(root: Path, stem: str, which: str, image: bytes) -> str:
    suffix = next((suffix for magic, suffix in _SUFFIXES.items() if image.startswith(magic)), None)
    if suffix is None:
        raise LocalIndexError(f"{which}: is neither PNG nor JPEG")
    (root / PICTURES).mkdir(exist_ok=True)
    (root / f"{stem}{suffix}").write_bytes(image)
    return f"{stem}{suffix}"


def _made(index: Path) -> _Made | None:
    """What an index says of its making; None when there is none."""
    if not index.is_file():
        return None
    with closing(sqlite3.connect(f"{index.resolve().as_uri()}?mode=ro", uri=True)) as database:
        try:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version == FORMAT_VERSION:
                digest, loose = database.execute("SELECT sha256, loose FROM source").fetchone()
            elif version in READABLE_VERSIONS:
                (digest,), loose = database.execute("SELECT sha256 FROM source").fetchone(), False
            else:
                digest, loose = "unknown", False
        except (sqlite3.DatabaseError, TypeError) as error:  # TypeError: its table is empty
            raise LocalIndexError(f"{index}: cannot be read as an index ({error}); remove it") from error
    return _Made(version, digest, bool(loose))


@contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    """Hold the folder's lock, where there are locks: they save work, the rename is what keeps an index whole.

    Who holds it removes what a writer that was killed has left.
    """
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            logger.info("%s cannot be locked (%s); other processes may build its index at the same time", root, error)
        else:
            for left in root.glob(f"{SCRATCH}*"):
                shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(descriptor)
