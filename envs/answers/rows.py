"""The statements of a store: answers, pictures and who asked, on a connection that its caller has opened.

Knows nothing of modes, threads or processes: writing is done inside the caller's transaction. Always holds: a picture
that an answer shows is not loose, and one that none shows is; a picture's file goes only a while after it became loose,
so that whoever was given it can still open it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from envs.answers.key import AnswerKey
from envs.answers.picture_files import PictureFiles, is_whole
from envs.answers.stored import AnswerStoreError, Kept, Stored, StoredPicture, StoreStats
from sake_ray.bounded_json import JsonRefused, parse_json

MAX_VALUE_CHARS = 1_048_576
MAX_VALUE_DEPTH = 32
_ROW_BYTES = 256
"""What an answer takes beside its texts, about: columns, indexes, who asked."""
_PAGE = 256

_ANSWER = """SELECT a.value, a.created, r.place, p.sha256, p.suffix, p.width, p.height, p.bytes
    FROM answers a LEFT JOIN shown r ON r.answer = a.id LEFT JOIN pictures p ON p.id = r.picture
    WHERE a.digest = ? ORDER BY r.place"""


class Rows:
    """Reads and writes the rows of one store; `files` says where its pictures lie."""

    def __init__(self, files: PictureFiles, path: Path) -> None:
        self._files = files
        self._path = path

    # --- reading -------------------------------------------------------------------------------------

    def answer(self, connection: sqlite3.Connection, digest: str) -> Stored | None:
        """The answer of a digest; None if there is none, or one of its pictures is gone.

        Raises:
            AnswerStoreError: its row is damaged.
        """
        # One statement, so that answer and pictures are of one moment.
        rows = connection.execute(_ANSWER, (digest,)).fetchall()
        if not rows:
            return None
        pictures = []
        for _, _, place, sha256, suffix, width, height, size in rows:
            if place is None:
                break
            if sha256 is None:
                return None
            path = self._files.path(sha256, suffix)
            if not is_whole(path, size):
                return None
            pictures.append(StoredPicture(sha256, path, width, height))
        text, created = rows[0][:2]
        return Stored(self._value(text, digest), tuple(pictures), created)

    def answers(self, connection: sqlite3.Connection, provider: str | None, after: int) -> list[tuple[int, AnswerKey]]:
        """A page of the keys kept, in the order they came in: those whose id is over `after`."""
        rows = connection.execute(
            "SELECT id, provider, kind, query, options FROM answers WHERE id > :after "
            "AND (:provider IS NULL OR provider = :provider) ORDER BY id LIMIT :page",
            {"after": after, "provider": provider, "page": _PAGE},
        )
        return [(row[0], AnswerKey(*row[1:])) for row in rows]

    def posts(self, connection: sqlite3.Connection, after: str) -> list[str]:
        """A page of the posts that asked, by name: those after `after`."""
        rows = connection.execute(
            "SELECT DISTINCT post FROM asked WHERE post > ? ORDER BY post LIMIT ?", (after, _PAGE)
        )
        return [post for (post,) in rows]

    def asked_by(self, connection: sqlite3.Connection, post: str) -> Iterator[Kept]:
        """What a post asked, in order, as far as it can be read."""
        keys = connection.execute(
            "SELECT a.provider, a.kind, a.query, a.options FROM asked q JOIN answers a ON a.id = q.answer "
            "WHERE q.post = ? ORDER BY q.id",
            (post,),
        ).fetchall()
        for row in keys:
            key = AnswerKey(*row)
            stored = self.answer(connection, key.digest)
            if stored is not None:
                yield Kept(key, stored)

    def stats(self, connection: sqlite3.Connection) -> StoreStats:
        """See `StoreStats`."""
        answers, pictures, size = connection.execute("SELECT answers, pictures, bytes FROM totals").fetchone()
        (loose,) = connection.execute(
            "SELECT coalesce(sum(bytes), 0) FROM pictures WHERE loose_since IS NOT NULL"
        ).fetchone()
        (oldest,) = connection.execute("SELECT min(created) FROM answers").fetchone()
        (newest,) = connection.execute("SELECT max(created) FROM answers").fetchone()
        return StoreStats(answers, pictures, size, loose, oldest, newest)

    def by_kind(self, connection: sqlite3.Connection) -> dict[tuple[str, str], int]:
        """Answers by provider and kind of search; reads the whole store."""
        rows = connection.execute("SELECT provider, kind, count(*) FROM answers GROUP BY provider, kind")
        return {(provider, kind): count for provider, kind, count in rows}

    def _value(self, text: str, digest: str) -> dict[str, Any]:
        try:
            value = parse_json(text, max_chars=MAX_VALUE_CHARS, max_depth=MAX_VALUE_DEPTH)
        except JsonRefused as error:
            raise AnswerStoreError(f"{self._path}: answer {digest}: {error}; restore the store from a copy") from error
        if not isinstance(value, dict):
            raise AnswerStoreError(f"{self._path}: answer {digest}: is no object; restore the store from a copy")
        return value

    # --- writing -------------------------------------------------------------------------------------

    def write_answer(
        self, connection: sqlite3.Connection, key: AnswerKey, text: str, pictures: Sequence[StoredPicture], now: float
    ) -> None:
        """Put an answer, in place of one that stood there.

        Raises:
            AnswerStoreError: a picture is not in the store.
        """
        size = _ROW_BYTES + len(text) + 2 * len(key.query) + len(key.options)
        ((answer,),) = connection.execute(
            "INSERT INTO answers(digest, provider, kind, query, options, value, created, used, bytes) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(digest) DO UPDATE SET value = excluded.value, "
            "created = excluded.created, used = excluded.used, bytes = excluded.bytes RETURNING id",
            (key.digest, key.provider, key.kind, key.query, key.options, text, now, now, size),
        ).fetchall()
        before = _pictures_of(connection, answer)
        connection.execute("DELETE FROM shown WHERE answer = ?", (answer,))
        for place, picture in enumerate(pictures):
            row = connection.execute(
                "UPDATE pictures SET loose_since = NULL WHERE sha256 = ? RETURNING id, suffix, bytes", (picture.sha256,)
            ).fetchall()
            if not row or not is_whole(self._files.path(picture.sha256, row[0][1]), row[0][2]):
                raise AnswerStoreError(f"{picture.path}: is not in the store (any more); add the picture again")
            connection.execute("INSERT INTO shown VALUES (?, ?, ?)", (answer, place, row[0][0]))
        _loosen(connection, before, now)

    def find_picture(self, connection: sqlite3.Connection, sha256: str) -> tuple[str, int, int] | None:
        """Suffix, width and height of a picture that is known, whether or not its file is still there."""
        row: tuple[str, int, int] | None = connection.execute(
            "SELECT suffix, width, height FROM pictures WHERE sha256 = ?", (sha256,)
        ).fetchone()
        return row

    def write_picture(
        self, connection: sqlite3.Connection, sha256: str, suffix: str, size: tuple[int, int], length: int, now: float
    ) -> None:
        """Note a picture: loose until an answer shows it, and if it was loose, from now on."""
        connection.execute(
            "INSERT INTO pictures(sha256, suffix, width, height, bytes, loose_since) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT(sha256) DO UPDATE SET loose_since = excluded.loose_since WHERE loose_since IS NOT NULL",
            (sha256, suffix, *size, length, now),
        )

    def write_used(self, connection: sqlite3.Connection, used: Mapping[str, float]) -> None:
        """Say when answers were last given."""
        connection.executemany(
            "UPDATE answers SET used = max(used, ?) WHERE digest = ?", [(time, digest) for digest, time in used.items()]
        )

    def write_asked(self, connection: sqlite3.Connection, asked: Iterable[tuple[str, str]]) -> None:
        """Say which posts asked what, as (post, digest); of answers that are not there nothing is noted."""
        connection.executemany(
            "INSERT OR IGNORE INTO asked(post, answer) SELECT ?, id FROM answers WHERE digest = ?",
            # A lone surrogate, which no file can hold, is written out.
            [(post.encode("utf-8", "backslashreplace").decode("utf-8"), digest) for post, digest in asked],
        )

    def evict(self, connection: sqlite3.Connection, down_to: int, at_most: int, now: float) -> int:
        """Remove the answers that were not given for longest, until the store has `down_to` bytes; how many went."""
        for removed in range(at_most):
            (size,) = connection.execute("SELECT bytes FROM totals").fetchone()
            row = connection.execute("SELECT id FROM answers ORDER BY used, id LIMIT 1").fetchone()
            if size <= down_to or row is None:
                return removed
            before = _pictures_of(connection, row[0])
            for statement in (
                "DELETE FROM shown WHERE answer = ?",
                "DELETE FROM asked WHERE answer = ?",
                "DELETE FROM answers WHERE id = ?",
            ):
                connection.execute(statement, row)
            _loosen(connection, before, now)
        return at_most

    def sweep(self, connection: sqlite3.Connection, since: float) -> int:
        """Remove pictures that have been loose since a time or longer; how many went.

        The files go inside the transaction: until it ends nobody can take one for theirs.
        """
        rows = connection.execute(
            "SELECT id, sha256, suffix FROM pictures WHERE loose_since <= ? AND NOT EXISTS "
            "(SELECT 1 FROM shown WHERE picture = pictures.id)",
            (since,),
        ).fetchall()
        for _, sha256, suffix in rows:
            self._files.remove(sha256, suffix)
        connection.executemany("DELETE FROM pictures WHERE id = ?", [(row[0],) for row in rows])
        return len(rows)


def value_text(value: Mapping[str, Any]) -> str:
    """An answer as it is kept.

    Raises:
        ValueError: it is no JSON, or too long to be read again.
    """
    try:
        text = json.dumps(dict(value), allow_nan=False)
    except TypeError as error:
        raise ValueError(f"the answer is no plain JSON: {error}") from error
    if len(text) > MAX_VALUE_CHARS:
        raise ValueError(f"the answer has {len(text)} characters, at most {MAX_VALUE_CHARS} are kept")
    return text


def _pictures_of(connection: sqlite3.Connection, answer: int) -> list[tuple[int]]:
    return connection.execute("SELECT DISTINCT picture FROM shown WHERE answer = ?", (answer,)).fetchall()


def _loosen(connection: sqlite3.Connection, pictures: list[tuple[int]], now: float) -> None:
    """Of pictures that an answer showed, those that none shows now are loose."""
    connection.executemany(
        "UPDATE pictures SET loose_since = ? WHERE id = ? AND loose_since IS NULL AND NOT EXISTS "
        "(SELECT 1 FROM shown WHERE picture = pictures.id)",
        [(now, picture) for (picture,) in pictures],
    )
