"""Intervals and tests of difference: seeded, made of whole posts, and right where the answer is known."""

from __future__ import annotations

import pytest

from rewards.evaluation.resample import intervals, paired, sign_test, spread_of_samples

RIGHT, WRONG = (1, 1, 1), (0, 1, 1)


Table = list[list[tuple[int, int, int]]]


def interval(counts: Table, *, resamples: int, seed: int = 0) -> dict[str, dict[str, float]]:
    return intervals({"x": counts}, resamples=resamples, seed=seed)["x"]


def difference(a: Table, b: Table, *, resamples: int) -> dict[str, float]:
    return paired({"x": (a, b)}, resamples=resamples, seed=0)["x"]


def test_the_interval_holds_the_value_and_narrows_with_more_posts() -> None:
    few = interval([[RIGHT, WRONG] * 10], resamples=1_000, seed=1)["micro_f1"]
    many = interval([[RIGHT, WRONG] * 1_000], resamples=1_000, seed=1)["micro_f1"]
    assert few["value"] == many["value"] == 50.0
    assert few["low"] < many["low"] < 50.0 < many["high"] < few["high"]
    # A share of one half over n posts has a standard error of 50 / sqrt(n) percent.
    assert many["high"] - many["low"] == pytest.approx(2 * 1.96 * 50 / 2_000**0.5, rel=0.15)
    assert few == interval([[RIGHT, WRONG] * 10], resamples=1_000, seed=1)["micro_f1"]


def test_a_score_without_spread_has_an_interval_of_no_width() -> None:
    found = interval([[RIGHT] * 5], resamples=100, seed=0)
    assert {name: (part["low"], part["high"]) for name, part in found.items()} == dict.fromkeys(found, (100.0, 100.0))


def test_samples_are_averaged_not_pooled() -> None:
    counts = [[(1, 1, 1), (1, 1, 1)], [(0, 8, 1), (0, 8, 1)]]
    assert interval(counts, resamples=50, seed=0)["micro_f1"]["value"] == 50.0
    assert spread_of_samples(counts) == {"per_sample": [100.0, 0.0], "std": pytest.approx(70.7107, abs=1e-3)}


def test_a_paired_difference_sees_what_two_intervals_would_not() -> None:
    a, b = [[RIGHT, WRONG] * 100], [[RIGHT, WRONG] * 95 + [RIGHT, RIGHT] * 5]
    found = difference(a, b, resamples=2_000)
    assert (found["a"], found["b"], found["difference"]) == (50.0, 52.5, 2.5)
    assert 0 < found["low"] < 2.5 < found["high"] < 6
    assert found["p"] < 0.05
    assert difference(a, a, resamples=100)["p"] == 1.0


def test_the_sign_test_is_the_exact_binomial() -> None:
    found = sign_test([1.0] * 5 + [0.0] + [0.5] * 4, [0.0] * 5 + [1.0] + [0.5] * 4)
    assert (found.a_better, found.b_better, found.ties) == (5, 1, 4)
    assert found.p == pytest.approx(2 * (1 + 6) / 64)
    assert sign_test([1.0], [1.0]).p == 1.0
    assert sign_test([1.0] * 1_500, [0.0] * 1_500).p == pytest.approx(0.0, abs=1e-300)
