"""The ledger never lets a day cost more than its budget, whoever dies; and forgets nothing that was spent."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.limiter.ledger import Ledger


@settings(max_examples=10)  # a disk is slow
@given(
    steps=st.lists(st.sampled_from(["charge"] * 6 + ["refund", "kill", "restart", "other"]), max_size=25),
    budget=st.sampled_from([0.35, 1.0, 12.0]),
)
def test_over_any_restarts_and_with_others_no_more_than_the_budget_is_spent(steps: list[str], budget: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        ledger, other, spent = Ledger(path), Ledger(path), 0
        for step in steps:
            if step == "charge":
                spent += ledger.charge("serper", 20_000, 0.1, budget)
            elif step == "other":
                spent += other.charge("serper", 20_000, 0.1, budget)
            elif step == "refund" and ledger.spent("serper", 20_000) >= 0.1:
                before = ledger.spent("serper", 20_000)
                ledger.refund("serper", 20_000, 0.1)
                spent -= round((before - ledger.spent("serper", 20_000)) / 0.1)
            elif step == "restart":
                ledger.close()
                ledger = Ledger(path)
            elif step == "kill":  # what it had reserved is never given back
                ledger = Ledger(path)
            assert spent * 0.1 <= budget + 1e-9
            assert ledger.spent("serper", 20_000) >= spent * 0.1 - 1e-9


def test_all_of_the_budget_can_be_spent_a_crash_costs_a_hundredth_and_days_and_services_are_apart(
    tmp_path: Path,
) -> None:
    path = tmp_path / "folder" / "ledger.sqlite"
    ledger = Ledger(path)
    assert [ledger.charge("a", 1, 0.1, 0.3) for _ in range(4)] == [True, True, True, False]
    assert ledger.charge("a", 2, 0.1, 0.3) and ledger.charge("b", 1, 0.1, 0.3) and ledger.spent("a", 1) == 0.3
    assert ledger.charge("crash", 1, 0.01, 100.0)  # and is never closed
    ledger.close()
    again = Ledger(path)
    assert (again.spent("a", 1), again.spent("a", 2), again.spent("b", 1)) == (0.3, 0.1, 0.1)
    assert not again.charge("a", 1, 0.1, 0.3)
    assert again.charge("crash", 1, 0.01, 100.0)
    assert Ledger(path).spent("crash", 1) <= 1.01 + 1e-9


def test_without_a_bound_it_counts_and_without_a_path_it_writes_nothing(tmp_path: Path) -> None:
    ledger = Ledger()
    assert all(ledger.charge("a", 1, 0.001, 0.0) for _ in range(3000)) and ledger.spent("a", 1) == 3.0
    (tmp_path / "text").write_text("no database at all, but some text of more than a few bytes" * 20, encoding="utf-8")
    with pytest.raises(ValueError, match="cannot be used as the ledger"):
        Ledger(tmp_path / "text")
