"""The accounting of groups under anything that can happen to them."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sake_ray.trainer.ledger import Draw, End, GroupLedger, LedgerError, Place, Return

ATTEMPTS = 3


class Groups(RuleBasedStateMachine):
    """Random completions, failures, cancellations, steps and resumes, and what must hold after each."""

    @initialize(step=st.integers(1, 4), staleness=st.integers(0, 3), ahead=st.integers(0, 3))
    def begin_run(self, step: int, staleness: int, ahead: int) -> None:
        self.sizes = {"groups_per_step": step, "max_staleness": staleness, "groups_ahead": ahead}
        self.limit = step * (staleness + 1) + ahead
        self.ledger = GroupLedger(**self.sizes, attempts=ATTEMPTS)
        self.drawn = 0
        self.failures: Counter[int] = Counter()
        self.ended: Counter[int] = Counter()
        self.left: set[int] = set()

    @rule()
    def fill(self) -> None:
        """What the producer does whenever something changed."""
        while self.ledger.room:
            if not self.ledger.size(Place.WAITING):
                self.ledger.draw(self.drawn, f"post-{self.drawn % 5}")
                self.left.add(self.drawn)
                self.drawn += 1
            oldest = min(draw.index for draw in self.ledger.waiting())
            begun = self.ledger.begin()
            assert begun is not None, "there was room and nothing was begun: the producer starves"
            assert begun.index == oldest, "a group that waits was overtaken"
        assert self.ledger.begin() is None, "a group was begun beyond the budget"

    def some(self, place: Place, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(self.ledger.at(place)))

    @precondition(lambda self: self.ledger.size(Place.RUNNING))
    @rule(data=st.data(), signal=st.booleans())
    def finish(self, data: st.DataObject, signal: bool) -> None:
        self.ledger.finish(self.some(Place.RUNNING, data), signal=signal)

    @precondition(lambda self: self.ledger.size(Place.RUNNING))
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        index = self.some(Place.RUNNING, data)
        self.failures[index] += 1
        again = self.ledger.give_back(index, Return.LOST)
        assert again == (self.failures[index] < ATTEMPTS)
        if not again:
            self.end(index)

    @precondition(lambda self: self.ledger.size(Place.RUNNING))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        assert self.ledger.give_back(self.some(Place.RUNNING, data), Return.CANCELLED)

    @precondition(lambda self: self.ledger.size(Place.READY))
    @rule(data=st.data())
    def age(self, data: st.DataObject) -> None:
        assert self.ledger.give_back(self.some(Place.READY, data), Return.STALE)

    @rule()
    def train_what_is_there(self) -> None:
        for index in self.ledger.at(Place.READY)[: self.sizes["groups_per_step"]]:
            self.ledger.take(index)
        for index in self.ledger.at(Place.VOID):
            self.ledger.report(index)

    @rule()
    def close_step(self) -> None:
        for index in (*self.ledger.at(Place.TAKEN), *self.ledger.at(Place.REPORTED)):
            self.end(index)
        self.ledger.close_step()

    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        """A new process, from a checkpoint of this very moment; some of the groups that were ready were kept."""
        kept = [index for index in self.ledger.at(Place.READY) if data.draw(st.booleans())]
        state = json.loads(json.dumps(self.ledger.state_dict()))
        self.ledger = GroupLedger(**self.sizes, attempts=ATTEMPTS)
        self.ledger.load_state_dict(state, ready=kept)
        assert self.ledger.at(Place.READY) == kept

    def end(self, index: int) -> None:
        self.ended[index] += 1
        self.left.discard(index)

    @invariant()
    def nothing_is_lost_or_counted_twice(self) -> None:
        if not hasattr(self, "ledger"):
            return
        places = [index for place in Place for index in self.ledger.at(place)]
        assert sorted(places) == sorted(self.left), "a group is nowhere, or in two places"
        assert all(count == 1 for count in self.ended.values())
        assert self.ledger.ends.total() == len(self.ended)
        assert self.ledger.drawn == self.drawn
        assert self.ledger.held <= self.limit
        assert self.ledger.room == self.limit - self.ledger.held
        assert self.ledger.counts()["running"] == self.ledger.size(Place.RUNNING)


Groups.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestGroups = Groups.TestCase


def test_a_group_is_not_moved_from_where_it_is_not() -> None:
    ledger = GroupLedger(groups_per_step=1, max_staleness=0)
    ledger.draw(0, "a")
    for wrong in (
        lambda: ledger.draw(0, "a"),
        lambda: ledger.take(0),
        lambda: ledger.finish(0, signal=True),
        lambda: ledger.give_back(0, Return.LOST),
        lambda: ledger.give_back(7, Return.STALE),
    ):
        with pytest.raises(LedgerError):
            wrong()
    assert ledger.begin() == Draw(0, "a")


def test_a_state_that_is_none_is_refused() -> None:
    ledger = GroupLedger(groups_per_step=1, max_staleness=0)
    for state in ({}, {"open": [[1]], "ends": {}}, {"open": [], "ends": {"vanished": 1}}):
        with pytest.raises(ValueError, match="cannot be read"):
            ledger.load_state_dict(state)
    twice = {"open": [[1, "a", 0], [1, "a", 0]], "ends": {str(End.TRAINED): 2}}
    with pytest.raises(ValueError, match="names one twice"):
        ledger.load_state_dict(twice)
