"""A key's account keeps its limits however late its grants are used, and gives all that they allow."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.limiter.bucket import Bucket, Pace
from envs.limiter.messages import ServiceLimits
from tests.envs.limiter.fake_time import NS, excess

LIMITS = st.builds(
    ServiceLimits,
    per_second=st.floats(0.3, 50.0) | st.integers(1, 7).map(float),
    burst=st.integers(1, 5),
    concurrency=st.integers(1, 20),
    late_s=st.sampled_from([0.0, 0.05]) | st.floats(0.0, 2.0),
)
# What happens next: after how many ns, what, and how late (of late_s) the grant is used.
STEPS = st.lists(
    st.tuples(
        st.integers(0, NS) | st.just(0),
        st.sampled_from(["take", "take", "take", "take", "end", "unused", "pause", "slow"]),
        st.floats(0, 1),
    ),
    max_size=25,
)


@given(limits=LIMITS, steps=STEPS)
def test_never_over_the_limits_however_late_each_grant_is_used(
    limits: ServiceLimits, steps: list[tuple[int, str, float]]
) -> None:
    late = math.floor(limits.late_s * NS)
    bucket, now = Bucket(Pace.of(limits), -60 * NS, 0), 0
    out: dict[int, int] = {}
    starts: dict[int, int] = {}
    sent: dict[int, int] = {}
    for number, (passes, what, lateness) in enumerate(steps, start=1):
        now += passes
        if what == "take":
            start = bucket.earliest(now)
            assert (start is None) == (len(out) == limits.concurrency)
            if start is not None:
                assert bucket.take(number, now) == start >= now
                out[number] = starts[number] = start
                sent[number] = start + round(lateness * late)
        elif what == "pause":
            bucket.pause(now + NS)
        elif what == "slow":
            bucket.stretch(1 + lateness)
        elif out:
            grant = list(out)[int(lateness * (len(out) - 1))]
            out.pop(grant)
            bucket.end(grant, used=what == "end")
            if what == "unused":
                del starts[grant], sent[grant]
    assert excess(list(sent.values()), limits.per_second, limits.burst) <= 1e-6
    assert worst_excess(list(starts.values()), limits) <= 1e-6


def worst_excess(starts: list[int], limits: ServiceLimits) -> float:
    """Where up to some grant all are as late as they may be, and from there on none is."""
    late = math.floor(limits.late_s * NS)
    return max(
        excess([start + late for start in starts[:turn]] + starts[turn:], limits.per_second, limits.burst)
        for turn in range(len(starts) + 1)
    )


@given(rate=st.floats(0.5, 1000.0), burst=st.integers(1, 10), late=st.floats(0.0, 0.5))
def test_the_rate_is_full_but_for_what_the_lateness_takes_beyond_the_burst(
    rate: float, burst: int, late: float
) -> None:
    limits = ServiceLimits(rate, burst, concurrency=10_000, late_s=late)
    bucket = Bucket(Pace.of(limits), -(10**15), 0)
    starts = [bucket.take(number, 0) for number in range(burst + 8)]
    interval = NS / rate
    lost = max(0.0, late * NS - (burst - 1) * interval)
    assert starts[-1] - starts[0] <= 8 * interval + late * NS + (burst + 7) * (lost + 4)
    assert worst_excess(starts, limits) <= 1e-6


def test_a_full_bucket_gives_its_burst_less_what_lateness_takes() -> None:
    bucket = Bucket(Pace.of(ServiceLimits(10.0, burst=5, late_s=0.1)), 0, 0)
    starts = [bucket.take(number, 60 * NS) for number in range(6)]
    assert [(start - 60 * NS) / NS for start in starts] == pytest.approx([0, 0, 0, 0, 0.1, 0.2])


def test_a_new_account_gives_no_burst_and_continues_one_that_gave_all_it_could() -> None:
    limits = ServiceLimits(10.0, burst=5, concurrency=100, late_s=0.0)
    horizon = NS // 50
    before = Bucket(Pace.of(limits), -60 * NS, horizon)
    starts: list[int] = []
    while (start := before.earliest(0)) is not None and start <= horizon:
        starts.append(before.take(len(starts), 0))
    after = Bucket(Pace.of(limits), 0, horizon)
    starts += [after.take(number, 0) for number in range(100, 120)]
    assert len(starts) == 25 and excess(starts, 10.0, 5) <= 0


def test_an_unused_start_can_be_had_again_and_a_pause_spends_what_was_saved() -> None:
    bucket = Bucket(Pace.of(ServiceLimits(1.0, burst=2, late_s=0.0)), 0, 0)
    now = 60 * NS
    assert [bucket.take(1, now), bucket.take(2, now)] == [now, now] and bucket.earliest(now) == now + NS
    bucket.end(1, used=False)
    assert bucket.earliest(now) == now
    bucket.pause(now + 5 * NS)
    assert [bucket.take(3, now), bucket.take(4, now)] == [now + 5 * NS, now + 6 * NS]
    bucket.end(2, used=False)  # from before the pause: nothing is won by it
    assert bucket.earliest(now) == now + 7 * NS
