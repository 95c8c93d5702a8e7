"""The ledger: what each service has cost on the present UTC day, kept over restarts.

Knows nothing of calls or clocks: it is told the day. Always holds: money is counted in whole billionths; what the file
says is never less than what was spent, however the process ended, for money is written down before it is spent, a
chunk at a time (at most 1000 calls or a hundredth of the budget, which is what a crash can count too much); several
processes that share a file keep one budget together. Blocking, some milliseconds for each chunk.
"""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

UNIT = 1_000_000_000
_CHUNK_CALLS = 1000
_CHUNK_SHARE = 100
_SCHEMA = "CREATE TABLE IF NOT EXISTS spent (service TEXT, day INTEGER, cost INTEGER, PRIMARY KEY (service, day))"


class _Account:
    """One service on one day: how much was taken from the file, and how much of that is left to spend."""

    def __init__(self, day: int) -> None:
        self.day = day
        self.spent = 0
        self.left = 0


class Ledger:
    """Charges services; with a path what they spent is in that file, without one it is forgotten with the process."""

    def __init__(self, path: Path | None = None) -> None:
        """Open the ledger, or make it.

        Raises:
            ValueError: the file is there, and no ledger, or cannot be opened.
        """
        self._accounts: dict[str, _Account] = {}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = sqlite3.connect(path or ":memory:", isolation_level=None, timeout=10.0)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=FULL")
            self._file.execute(_SCHEMA)
        except sqlite3.Error as error:
            raise ValueError(f"{path}: cannot be used as the ledger of daily budgets: {error}; name another") from error

    def charge(self, service: str, day: int, cost: float, budget: float) -> bool:
        """Spend `cost` on the day (days since 1970, UTC), unless it would pass `budget` (0: no bound).

        Raises:
            sqlite3.OperationalError: the file cannot be written.
        """
        amount = _units(cost)
        if amount == 0:
            return True
        account = self._account(service, day)
        if account.left < amount and not self._reserve(service, account, amount, _units(budget) if budget else None):
            return False
        account.left -= amount
        account.spent += amount
        return True

    def refund(self, service: str, day: int, cost: float) -> None:
        """A call that was charged was not made."""
        account = self._accounts.get(service)
        if account is not None and account.day == day:
            amount = min(_units(cost), account.spent)
            account.left += amount
            account.spent -= amount

    def spent(self, service: str, day: int) -> float:
        """What was spent on the day: here, and by whoever had or has the file, whose open chunks count as spent."""
        account = self._accounts.get(service)
        left = account.left if account is not None and account.day == day else 0
        return max(0, self._written(service, day) - left) / UNIT

    def close(self) -> None:
        """Write what was not spent back, and close the file."""
        for service, account in self._accounts.items():
            self._settle(service, account)
        self._accounts.clear()
        self._file.close()

    def _account(self, service: str, day: int) -> _Account:
        account = self._accounts.get(service)
        if account is None or account.day != day:
            if account is not None:
                self._settle(service, account)
            account = self._accounts[service] = _Account(day)
        return account

    def _reserve(self, service: str, account: _Account, amount: int, budget: int | None) -> bool:
        chunk = amount * _CHUNK_CALLS
        if budget is not None:
            chunk = max(amount, min(chunk, budget // _CHUNK_SHARE))
        self._file.execute("BEGIN IMMEDIATE")
        try:
            taken = chunk
            if budget is not None:
                taken = min(chunk, budget - self._written(service, account.day))
            enough = account.left + taken >= amount
            if enough:
                self._add(service, account.day, taken)
                account.left += taken
        finally:
            self._file.execute("COMMIT")
        return enough

    def _settle(self, service: str, account: _Account) -> None:
        if account.left:
            self._add(service, account.day, -account.left)
            account.left = 0

    def _written(self, service: str, day: int) -> int:
        row = self._file.execute("SELECT cost FROM spent WHERE service = ? AND day = ?", (service, day)).fetchone()
        return row[0] if row else 0

    def _add(self, service: str, day: int, amount: int) -> None:
        self._file.execute(
            "INSERT INTO spent VALUES (?, ?, ?) ON CONFLICT (service, day) DO UPDATE SET cost = cost + excluded.cost",
            (service, day, amount),
        )


def _units(money: float) -> int:
    """Money in whole units, rounded up beyond what floats blur: 0.1 is 100,000,000."""
    return math.ceil(round(money * UNIT, 3))
