"""The autoscaler: within its bounds, one at a time, and it settles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sake_ray.trainer.autoscale import Autoscaler, AutoscaleSettings

SHARES = st.floats(0.0, 1.0)


@given(
    steps=st.lists(st.tuples(SHARES, SHARES), max_size=60),
    low=st.integers(1, 4),
    more=st.integers(0, 6),
    first=st.integers(1, 12),
)
def test_within_bounds_by_one_and_with_rest_between(
    steps: list[tuple[float, float]], low: int, more: int, first: int
) -> None:
    scaler, size = Autoscaler(AutoscaleSettings(low, low + more)), min(max(first, low), low + more)
    changed_at = [-100]
    for step, (wait, held) in enumerate(steps):
        wanted = scaler.next(wait, held, size)
        assert low <= wanted <= low + more and abs(wanted - size) <= 1
        if wanted != size:
            assert step - changed_at[-1] > scaler.settings.cooldown
            changed_at.append(step)
        size = wanted


@pytest.mark.parametrize("needed", [1.0, 2.5, 4.0, 7.5])
def test_it_settles_on_about_as_many_as_the_learner_needs(needed: float) -> None:
    """A pool of `needed` workers makes groups as fast as the learner takes them."""
    scaler, size, sizes = Autoscaler(AutoscaleSettings(1, 8)), 1, []
    for _ in range(120):
        wait = max(0.0, 1 - size / needed)
        held = max(0.0, 1 - needed / size)
        size = scaler.next(wait, held, size)
        sizes.append(size)
    assert len(set(sizes[60:])) == 1, "it swings"
    assert 0.7 * needed <= sizes[-1] <= 2 * needed + 1


def test_a_size_set_by_hand_outside_the_bounds_comes_back() -> None:
    scaler = Autoscaler(AutoscaleSettings(2, 4))
    assert (scaler.next(0.0, 0.0, 9), scaler.next(0.0, 0.0, 1)) == (4, 2)


@pytest.mark.parametrize(("low", "high"), [(3, 1), (0, 1)])
def test_bounds_that_hold_no_size_are_refused(low: int, high: int) -> None:
    with pytest.raises(ValueError, match="1 <= low <= high"):
        AutoscaleSettings(low, high)
