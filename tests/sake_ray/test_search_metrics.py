"""A step's search metrics are differences of counts; a restarted worker's counts are not negative work."""

from __future__ import annotations

from sake_ray.search_metrics import pool_metrics


def test_a_step_is_the_difference_and_quantiles_are_bucket_edges() -> None:
    before = {"calls": 10.0, "hits": 4.0, "latency_le_0.1": 5.0, "latency_le_1.0": 9.0, "latency_le_inf": 10.0}
    after = {
        "calls": 20.0, "hits": 9.0, "remembered": 10.0, "pending": 3.0,
        "latency_le_0.1": 11.0, "latency_le_1.0": 15.0, "latency_le_inf": 20.0,
    }  # fmt: skip
    assert pool_metrics(before, after) == {
        "search/pool_calls": 10.0,
        "search/pool_hits": 5.0,
        "search/pool_remembered": 10.0,
        "search/pool_pending": 3.0,
        "search/pool_hit_rate": 15.0 / 20.0,
        "search/pool_latency_p50_s": 0.1,
        "search/pool_latency_p95_s": 1.0,
    }


def test_nothing_counted_is_nothing_and_a_count_that_fell_began_anew() -> None:
    assert pool_metrics({}, {}) == {}
    assert pool_metrics({"calls": 100.0}, {"calls": 3.0, "latency_le_inf": 0.0}) == {
        "search/pool_calls": 3.0,
        "search/pool_hit_rate": 0.0,
    }
