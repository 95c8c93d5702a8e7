"""The breaker opens after failures in a row, rests, and lets one probe at a time decide."""

from __future__ import annotations

from envs.limiter.breaker import Breaker


def test_it_opens_after_failures_in_a_row_and_a_probe_closes_or_opens_it() -> None:
    breaker = Breaker(failures=2, rest=10)
    for ok in (False, True, False, None):
        assert breaker.blocked(0) is None and not breaker.enter()
        breaker.leave(False, ok, 0)
    assert breaker.blocked(0) is None, "a success, or none said, between them: not in a row"
    breaker.leave(False, False, 0)
    assert breaker.blocked(0) == 10 and breaker.blocked(9) == 1 and breaker.opened == 1

    breaker.leave(False, True, 5)  # a call from before it opened
    assert breaker.blocked(5) == 5
    assert breaker.blocked(10) is None and breaker.enter()
    assert breaker.blocked(10) is not None, "one probe at a time"
    breaker.leave(True, None, 11)  # it says nothing: the next one may try
    assert breaker.blocked(11) is None and breaker.enter()
    breaker.leave(True, False, 12)
    assert breaker.blocked(12) == 10 and breaker.opened == 2
    assert breaker.blocked(22) is None and breaker.enter()
    breaker.leave(True, True, 23)
    assert breaker.blocked(23) is None and not breaker.enter()
    breaker.leave(False, False, 23)
    assert breaker.blocked(23) is None, "the count began anew"


def test_without_a_number_of_failures_it_never_opens() -> None:
    breaker = Breaker(failures=0, rest=10)
    for _ in range(100):
        breaker.leave(False, False, 0)
    assert breaker.blocked(0) is None
