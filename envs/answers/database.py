"""The database of a store: how it is laid out, made, opened for writing or reading, and how its errors are told.

One SQLite file in WAL mode: readers never wait for a writer, and a process killed in the middle of a write has written
nothing. Knows nothing of what answers mean. Always holds: only a database of ours and of this format is opened, and
none is ever deleted or repaired; a reader of a finished store creates no file. A store lies on a disk of the machine:
WAL does not work over a network file system.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from envs.answers.stored import AnswerStoreError

DATABASE = "answers.sqlite"
_LOCK = "opening.lock"
_BUDGET = "budget.sqlite"
"""What the day's searches cost; it lies in the same folder, and may be there first."""
_APPLICATION = int.from_bytes(b"SAKE", "big")
_FORMAT = 1
_BUSY_S = 60.0

_SCHEMA = (
    # `used` is when an answer was last given, `bytes` what it takes here; both for the size bound.
    """CREATE TABLE answers(
        id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE,
        provider TEXT NOT NULL, kind TEXT NOT NULL, query TEXT NOT NULL, options TEXT NOT NULL,
        value TEXT NOT NULL, created REAL NOT NULL, used REAL NOT NULL, bytes INTEGER NOT NULL)""",
    "CREATE INDEX answers_used ON answers(used)",
    "CREATE INDEX answers_created ON answers(created)",
    # `loose_since`: since when no answer shows it; NULL while one does.
    """CREATE TABLE pictures(
        id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, suffix TEXT NOT NULL,
        width INTEGER NOT NULL, height INTEGER NOT NULL, bytes INTEGER NOT NULL, loose_since REAL)""",
    "CREATE INDEX pictures_loose ON pictures(loose_since) WHERE loose_since IS NOT NULL",
    """CREATE TABLE shown(
        answer INTEGER NOT NULL, place INTEGER NOT NULL, picture INTEGER NOT NULL,
        PRIMARY KEY(answer, place)) WITHOUT ROWID""",
    "CREATE INDEX shown_picture ON shown(picture)",
    "CREATE TABLE asked(id INTEGER PRIMARY KEY, post TEXT NOT NULL, answer INTEGER NOT NULL, UNIQUE(post, answer))",
    "CREATE INDEX asked_answer ON asked(answer)",
    # Kept up to date by triggers, so that no put has to count.
    "CREATE TABLE totals(answers INTEGER NOT NULL, pictures INTEGER NOT NULL, bytes INTEGER NOT NULL)",
    "INSERT INTO totals VALUES (0, 0, 0)",
    """CREATE TRIGGER answer_added AFTER INSERT ON answers BEGIN
        UPDATE totals SET answers = answers + 1, bytes = bytes + new.bytes; END""",
    """CREATE TRIGGER answer_replaced AFTER UPDATE OF bytes ON answers BEGIN
        UPDATE totals SET bytes = bytes + new.bytes - old.bytes; END""",
    """CREATE TRIGGER answer_removed AFTER DELETE ON answers BEGIN
        UPDATE totals SET answers = answers - 1, bytes = bytes - old.bytes; END""",
    """CREATE TRIGGER picture_shown AFTER UPDATE OF loose_since ON pictures
        WHEN old.loose_since IS NOT NULL AND new.loose_since IS NULL BEGIN
        UPDATE totals SET pictures = pictures + 1, bytes = bytes + new.bytes; END""",
    """CREATE TRIGGER picture_loose AFTER UPDATE OF loose_since ON pictures
        WHEN old.loose_since IS NULL AND new.loose_since IS NOT NULL BEGIN
        UPDATE totals SET pictures = pictures - 1, bytes = bytes - old.bytes; END""",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_FORMAT}",
)


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Turn an error of the database into one that says which file and what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise AnswerStoreError(f"{path}: {_advice(error)}") from error


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All or nothing, and alone among all writers of all processes."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.rollback()
        raise
    connection.execute("COMMIT")


def open_for_writing(folder: Path) -> sqlite3.Connection:
    """Open a store's database, making folder and database where there are none.

    Raises:
        AnswerStoreError: the folder holds something else, the database is damaged, or of another format.
    """
    path = folder / DATABASE
    _check_place(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # One at a time: two processes that make the same database would meet half of it.
    with (folder / _LOCK).open("a") as lock, telling(path):
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = _connect(path.as_uri())
        try:
            if _is_empty(connection):
                connection.execute("PRAGMA journal_mode = WAL")
                with transaction(connection):
                    for statement in _SCHEMA:
                        connection.execute(statement)
            _check_format(connection, path)
            connection.execute("PRAGMA journal_mode = WAL")
            # The last transactions may be lost when the power fails, the database may not.
            connection.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            connection.close()
            raise
    return connection


class Reader:
    """Reads a store's database; one thread at a time.

    A store that nobody has open is read as it lies, which creates nothing and works in a folder that cannot be written
    to; whether somebody writes to it meanwhile is looked at before every question.
    """

    def __init__(self, folder: Path, *, beside_writer: bool) -> None:
        """Open the database; `beside_writer` where this very process holds it open for writing.

        Raises:
            AnswerStoreError: there is no store, it is damaged, or of another format.
        """
        self._path = folder / DATABASE
        self._wal = folder / f"{DATABASE}-wal"
        self._beside_writer = beside_writer
        if not self._path.is_file():
            raise AnswerStoreError(f"{folder}: no store of answers there ({DATABASE} is missing); record one first")
        self._connection = self._open()

    def connection(self) -> sqlite3.Connection:
        """A connection that sees what stands now."""
        if not self._beside_writer and self._seen is not None and self._seen != self._state():
            self._connection.close()
            self._connection = self._open()
        return self._connection

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _open(self) -> sqlite3.Connection:
        # `_seen` is the state of the file that is taken as unchanging, None where the WAL tells of changes.
        state = self._state()
        self._seen = None if self._beside_writer or state is None else state
        query = "mode=ro" if self._seen is None else "mode=ro&immutable=1"
        with telling(self._path):
            connection = _connect(f"{self._path.as_uri()}?{query}")
            try:
                _check_format(connection, self._path)
            except BaseException:
                connection.close()
                raise
        return connection

    def _state(self) -> tuple[int, int] | None:
        """Size and time of a database that nobody has open; None where a WAL holds more than it."""
        try:
            if self._wal.stat().st_size > 0:
                return None
        except FileNotFoundError:
            pass
        found = self._path.stat()
        return found.st_size, found.st_mtime_ns


def _connect(uri: str) -> sqlite3.Connection:
    # No transactions but ours; threads take turns by the owner's locks.
    connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _check_place(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise AnswerStoreError(f"{folder}: is a file; search.cache_dir must name a folder")
    if folder.is_dir():
        # A store whose making was cut short has the lock and maybe an empty database. Another process may be making it
        # right now: the database comes first, so that whoever sees anything else sees it too, if looked for afterwards.
        strangers = sorted(name for name in os.listdir(folder) if name != _LOCK and not name.startswith(_BUDGET))
        if strangers and not (folder / DATABASE).exists():
            raise AnswerStoreError(
                f"{folder}: holds {strangers[0]!r} and no {DATABASE}, so it is no store of answers; "
                "name an empty folder, or one that does not exist yet"
            )


def _is_empty(connection: sqlite3.Connection) -> bool:
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    return tables == 0 and application == 0


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION:
        raise AnswerStoreError(f"{path}: is no store of answers; name another folder")
    if version != _FORMAT:
        raise AnswerStoreError(
            f"{path}: has format {version}, this program reads and writes format {_FORMAT}; "
            "name another folder, or use the program that made it"
        )


def _advice(error: sqlite3.DatabaseError) -> str:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"another process has held it for {_BUSY_S:.0f} s ({error}); end that process if it hangs"
    if code == sqlite3.SQLITE_FULL:
        return f"no room on the disk ({error}); free some, or prune the store"
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return (
            f"cannot be opened so ({error}); check the permissions of the folder, and if a run that used it was "
            "killed, copy the folder to where it can be written to and open it there once"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return (
            f"is damaged ({error}); nothing was changed. Restore it from a copy, save what can be saved with "
            f"`sqlite3 {DATABASE} .recover`, or move the folder away to begin anew"
        )
    return f"the database failed ({error}); check disk and permissions"
