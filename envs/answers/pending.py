"""What a store has still to write: when answers were last given, and which posts asked.

Knows nothing of databases. Always holds: nothing noted is lost while the process lives, and what is noted twice is
written once; safe from any thread.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Noted:
    """Times of last use by digest, and (post, digest) of who asked, in the order in which they did."""

    used: dict[str, float] = field(default_factory=dict)
    asked: dict[tuple[str, str], None] = field(default_factory=dict)


class Pending:
    """Collects until somebody writes anyway."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._noted = Noted()

    def __bool__(self) -> bool:
        """Whether anything is to be written."""
        return bool(self._noted.used or self._noted.asked)

    def note_used(self, digest: str, now: float) -> None:
        """An answer was given."""
        with self._lock:
            self._noted.used[digest] = now

    def note_asked(self, post: str, digest: str) -> None:
        """A post asked."""
        with self._lock:
            self._noted.asked[post, digest] = None

    def take(self) -> Noted:
        """All that is noted; it is the caller's to write, or to give back."""
        with self._lock:
            noted, self._noted = self._noted, Noted()
            return noted

    def give_back(self, noted: Noted) -> None:
        """What could not be written."""
        with self._lock:
            newer = self._noted
            self._noted = Noted({**noted.used, **newer.used}, {**noted.asked, **newer.asked})
