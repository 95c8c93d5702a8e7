"""The circuit breaker: a service that keeps failing gets a rest, then is tried with one call at a time.

Knows nothing of services or clocks: it is told the time, in ns. Always holds: while it is open nothing goes through;
half open, one probe at a time does, and only a probe's outcome closes or opens it.
"""

from __future__ import annotations


class Breaker:
    """Closed until `failures` calls in a row have failed (0: always)."""

    def __init__(self, failures: int, rest: int) -> None:
        """`rest` is how long it stays open, in ns."""
        self._failures = failures
        self._rest = rest
        self._in_row = 0
        self._until: int | None = None  # None: closed
        self._probing = False
        self.opened = 0

    def change(self, failures: int, rest: int) -> None:
        """Keep other limits from now on."""
        self._failures, self._rest = failures, rest

    def blocked(self, now: int) -> int | None:
        """None where a call may go through, else how long it is worth waiting, in ns (1 while a probe is out)."""
        if self._until is None or (now >= self._until and not self._probing):
            return None
        return max(1, self._until - now)

    def enter(self) -> bool:
        """A call goes through; whether it is a probe, of which `leave` is to be told."""
        self._probing = self._until is not None
        return self._probing

    def leave(self, probe: bool, ok: bool | None, now: int) -> None:
        """How a call ended; `ok` is None where that says nothing of the service."""
        if probe:
            self._probing = False
            if ok:
                self._until, self._in_row = None, 0
            elif ok is False:
                self._open(now)
        elif self._until is None and ok is not None:  # calls from before it opened have had their say
            self._in_row = 0 if ok else self._in_row + 1
            if self._failures and self._in_row >= self._failures:
                self._open(now)

    def _open(self, now: int) -> None:
        self._until = now + self._rest
        self.opened += 1
