"""The store of answers: one folder for all jobs of a machine, with a database and the pictures beside it.

Knows nothing of providers, queries or what an answer means, and must never be given a service's key: what is put here
is read by others. Always holds: an answer is given whole, with all its pictures, or not at all; a process killed at
any moment loses at most what it was about to put; in mode record the first answer of a key is final; in read_only
nothing is written. A recording belongs into a folder of its own: a job in mode on replaces and evicts what it finds.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from envs.answers.database import DATABASE, Reader, open_for_writing, telling, transaction
from envs.answers.key import AnswerKey
from envs.answers.pending import Pending
from envs.answers.picture_files import PictureFiles, is_whole
from envs.answers.rows import Rows, value_text
from envs.answers.stored import AnswerStoreError, Kept, Pruned, ReadOnlyStoreError, Stored, StoredPicture, StoreStats
from sake_ray.data.images import MAX_IMAGE_BYTES

logger = logging.getLogger(__name__)

MODES = ("on", "record", "read_only")
KEEP_S = 3600.0
"""Seconds for which a picture file stays after its last answer has gone: whoever got it may still have to read it."""
_FLUSH_S = 3.0
"""Seconds after which it is written who asked, if no put wrote it before."""
_FILL = 0.9
_EVICT_AT_ONCE = 2_000


class AnswerStore:
    """Answers by `AnswerKey`. Every method may be called from any thread; each takes well under a millisecond, except
    `add_picture`, which waits for the disk, and whatever waits for another process that writes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mode: str,
        max_bytes: int,
        ttl_s: float,
        clock: Callable[[], float] = time.time,
        keep_s: float = KEEP_S,
    ) -> None:
        """Open the store in `folder`, making it where it does not exist (in read_only it must).

        Args:
            folder: of the store alone, on a disk of this machine.
            mode: on: answers older than `ttl_s` seconds count as absent, and a put replaces; record: no answer is too
                old, none is replaced or evicted; read_only: nothing is written.
            max_bytes: what answers and pictures may take; over it the answers not given for longest go (mode on).
            ttl_s: seconds an answer is good for (mode on).
            clock: seconds since 1970, the same for all processes that share the store.
            keep_s: seconds for which pictures that no answer shows any more are kept.

        Raises:
            AnswerStoreError: the folder is no store, is damaged, of another format, or cannot be used so.
            ValueError: an unknown mode.
        """
        if mode not in MODES:
            raise ValueError(f"search.cache={mode!r}: a store is opened in one of {', '.join(MODES)}")
        self._folder = folder.absolute()
        self._mode, self._max_bytes, self._ttl_s = mode, max_bytes, ttl_s
        self._clock, self._keep_s = clock, keep_s
        self._files = PictureFiles(self._folder)
        self._path = self._folder / DATABASE
        self._rows = Rows(self._files, self._path)
        self._pending = Pending()
        self._sweep_at = 0.0
        self._warned_full = False
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._closed = False
        self._timing = threading.Lock()
        self._timer: threading.Timer | None = None
        self._writer: sqlite3.Connection | None = None
        if mode != "read_only":
            self._writer = open_for_writing(self._folder)
            self._files.prepare()
        # Two connections: who reads does not wait while this process writes, or waits for others to have written.
        self._reader = Reader(self._folder, beside_writer=self._writer is not None)

    # --- reading -------------------------------------------------------------------------------------

    def get(self, key: AnswerKey) -> Stored | None:
        """The answer that stands under `key`; None if there is none, it is too old, or a picture file is gone.

        Raises:
            AnswerStoreError: the database is damaged.
        """
        with self._read() as connection:
            stored = self._rows.answer(connection, key.digest)
        if stored is None or (self._mode == "on" and stored.created + self._ttl_s < self._clock()):
            return None
        if self._writer is not None:
            self._pending.note_used(key.digest, self._clock())
        return stored

    def stats(self) -> StoreStats:
        """What the store holds; quick, and without the counts by kind."""
        with self._read() as connection:
            return self._rows.stats(connection)

    def by_kind(self) -> Mapping[tuple[str, str], int]:
        """Answers by (provider, kind); reads the whole store."""
        with self._read() as connection:
            return self._rows.by_kind(connection)

    def answers(self, provider: str | None = None) -> Iterator[Kept]:
        """All answers that can be read whole, however old, in the order in which their keys came in."""
        after = 0
        while True:
            with self._read() as connection:
                page = self._rows.answers(connection, provider, after)
                found = [(key, self._rows.answer(connection, key.digest)) for _, key in page]
            if not page:
                return
            after = page[-1][0]
            yield from (Kept(key, stored) for key, stored in found if stored is not None)

    def posts(self) -> Iterator[str]:
        """The posts that asked anything, by name."""
        self.flush()
        after = ""
        while True:
            with self._read() as connection:
                page = self._rows.posts(connection, after)
            if not page:
                return
            after = page[-1]
            yield from page

    def asked_by(self, post: str) -> list[Kept]:
        """What a post asked, in the order in which it asked first, as far as it can be read whole."""
        with self._read() as connection:
            return list(self._rows.asked_by(connection, post))

    # --- writing -------------------------------------------------------------------------------------

    def put(
        self, key: AnswerKey, value: Mapping[str, Any], *, pictures: Sequence[StoredPicture] = (), post: str = ""
    ) -> Stored:
        """Keep an answer, and say that `post` asked for it; returns what stands in the store afterwards.

        In mode record that is the first answer of the key, whichever process put it, as long as it can be read whole.

        Raises:
            ValueError: the value is no plain JSON, or too long.
            ReadOnlyStoreError: in mode read_only.
            AnswerStoreError: a picture was not added, or long ago; or the database cannot be written.
        """
        text = value_text(value)
        now = self._clock()
        with self._write(now) as connection:
            standing = self._rows.answer(connection, key.digest) if self._mode == "record" else None
            if standing is None:
                self._rows.write_answer(connection, key, text, pictures, now)
            self._rows.write_asked(connection, [(post, key.digest)] if post else ())
        return standing or Stored(dict(value), tuple(pictures), now)

    def add_picture(self, data: bytes, suffix: str, width: int, height: int) -> StoredPicture:
        """Keep a picture's encoded bytes for an answer that is put within the next `keep_s` seconds.

        The same bytes are kept once, under the suffix and size they first came with.

        Raises:
            ValueError: a suffix unlike `.jpg`, no size, no bytes or too many.
            ReadOnlyStoreError: in mode read_only.
            AnswerStoreError: the store cannot be written.
        """
        if width < 1 or height < 1 or not 0 < len(data) <= MAX_IMAGE_BYTES:
            raise ValueError(f"a picture of {width} x {height} pixels in {len(data)} bytes cannot be kept")
        self._check_writable()
        sha256 = hashlib.sha256(data).hexdigest()
        staged = None
        try:
            if not is_whole(self._files.path(sha256, suffix), len(data)):
                staged = self._files.stage(data)  # the slow part, while others may write
            with self._write(self._clock()) as connection:
                known = self._rows.find_picture(connection, sha256)
                suffix, width, height = known or (suffix, width, height)
                path = self._files.path(sha256, suffix)
                if not is_whole(path, len(data)):
                    staged = staged or self._files.stage(data)
                    self._files.place(staged, path)
                self._rows.write_picture(connection, sha256, suffix, (width, height), len(data), self._clock())
        except OSError as error:
            raise AnswerStoreError(f"{self._folder}: a picture cannot be written ({error})") from error
        finally:
            if staged is not None:
                staged.unlink(missing_ok=True)
        return StoredPicture(sha256, path, width, height)

    def note_asked(self, key: AnswerKey, post: str) -> None:
        """Say that a post asked for an answer that stands; written within seconds, and never by this call itself.

        In mode read_only nothing is noted: the recording knows.
        """
        if self._writer is not None:
            self._pending.note_asked(post, key.digest)
            self._flush_soon()

    def flush(self) -> None:
        """Write what has been noted: who asked, and when answers were last given."""
        if self._writer is not None and self._pending:
            with self._write(self._clock()):
                pass

    def prune(self, max_bytes: int, *, keep_s: float = KEEP_S) -> Pruned:
        """Bring the store under a size, and remove whatever belongs to nothing; the database gives back its room.

        Pictures that no answer has shown for `keep_s` seconds go; 0 only while no job uses the store.

        Raises:
            ReadOnlyStoreError: in mode read_only.
            AnswerStoreError: the store cannot be written.
        """
        answers = pictures = 0
        while True:
            with self._write(self._clock()) as connection:
                went = self._rows.evict(connection, max_bytes, _EVICT_AT_ONCE, self._clock())
                pictures += self._rows.sweep(connection, self._clock() - keep_s)
            answers += went
            if went < _EVICT_AT_ONCE:
                break
        with self._write(self._clock()) as connection:
            stray = [
                path
                for sha256, path in self._files.everything()
                if (known := self._rows.find_picture(connection, sha256)) is None or known[0] != path.suffix
            ]
            for path in stray:
                path.unlink(missing_ok=True)
        with self._writing, telling(self._path):
            self._check_writable().execute("VACUUM")
        return Pruned(answers, pictures, len(stray))

    def close(self) -> None:
        """Write what has been noted, and let go of the files. A second time nothing happens."""
        if self._closed:
            return
        with self._timing:
            if self._timer is not None:
                self._timer.cancel()
        self.flush()
        with self._writing, self._reading:
            self._closed = True
            self._reader.close()
            if self._writer is not None:
                self._writer.close()

    def __enter__(self) -> Self:
        """The store itself; it is closed when the block is left."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside --------------------------------------------------------------------------------------

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        with self._reading, telling(self._path):
            if self._closed:
                raise AnswerStoreError(f"{self._folder}: the store is closed")
            yield self._reader.connection()

    @contextmanager
    def _write(self, now: float) -> Iterator[sqlite3.Connection]:
        """A transaction that also writes what was noted, and keeps the store within its size."""
        with self._writing, telling(self._path):
            writer = self._check_writable()
            noted = self._pending.take()
            try:
                with transaction(writer) as connection:
                    yield connection
                    self._rows.write_used(connection, noted.used)
                    self._rows.write_asked(connection, noted.asked)
                    self._keep_size(connection, now)
            except BaseException:
                self._pending.give_back(noted)
                raise

    def _flush_soon(self) -> None:
        """Flush in a thread after a while: whoever notes may be an event loop, and may be killed without a `close`."""
        with self._timing:
            if self._timer is None and not self._closed:
                self._timer = threading.Timer(_FLUSH_S, self._flush_aside)
                self._timer.daemon = True
                self._timer.start()

    def _flush_aside(self) -> None:
        with self._timing:
            self._timer = None
        try:
            if not self._closed:
                self.flush()
        except AnswerStoreError as error:  # nobody to raise it to; what was noted is kept for the next write
            logger.warning("who asked could not be written yet: %s", error)

    def _check_writable(self) -> sqlite3.Connection:
        if self._writer is None:
            raise ReadOnlyStoreError(f"{self._folder}: is only read here (search.cache=read_only), nothing can be put")
        if self._closed:
            raise AnswerStoreError(f"{self._folder}: the store is closed")
        return self._writer

    def _keep_size(self, connection: sqlite3.Connection, now: float) -> None:
        (size,) = connection.execute("SELECT bytes FROM totals").fetchone()
        if size > self._max_bytes and self._mode == "on":
            removed = self._rows.evict(connection, int(_FILL * self._max_bytes), _EVICT_AT_ONCE, now)
            logger.info("search cache %s: %d answers not used for longest were removed", self._folder, removed)
        elif size > self._max_bytes and not self._warned_full:
            self._warned_full = True
            logger.warning(
                "%s: the recording takes %d bytes, over the %d of search.cache_gib; it goes on growing, as a recording "
                "without some of its answers cannot be replayed",
                self._folder, size, self._max_bytes,
            )  # fmt: skip
        if now >= self._sweep_at:
            self._sweep_at = now + self._keep_s / 4
            self._rows.sweep(connection, now - self._keep_s)
