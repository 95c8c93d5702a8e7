"""Advantages: the method's formula, order kept, and no estimator fed with made-up values."""

from __future__ import annotations

import statistics

import pytest

from sake_ray.algorithms.advantage import KNOWN_ESTIMATORS, group_advantages, has_signal

GROUPS = [[1.0, 0.0, 0.5, 0.5], [0.2, 0.9]]


def test_grpo_is_the_formula_of_the_method() -> None:
    expected = [[(r - statistics.mean(g)) / (statistics.stdev(g) + 1e-6) for r in g] for g in GROUPS]
    for found, wanted in zip(group_advantages(GROUPS, "grpo"), expected, strict=True):
        assert found == pytest.approx(wanted, abs=1e-9)


def test_rloo_subtracts_the_mean_of_the_others() -> None:
    assert group_advantages([[1.0, 0.0, 0.5]], "rloo")[0] == pytest.approx([0.75, -0.75, 0.0])


@pytest.mark.parametrize(
    ("groups", "estimator", "message"),
    [
        (GROUPS, "grop", "not in verl's registry"),
        (GROUPS, "gae", "needs values"),
        ([[1.0]], "grpo", "at least 2"),
        ([[1.0, float("nan")]], "grpo", "not finite"),
    ],
)
def test_what_cannot_be_computed_is_refused(groups: list[list[float]], estimator: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_advantages(groups, estimator)


@pytest.mark.parametrize("estimator", KNOWN_ESTIMATORS)
def test_every_estimator_called_known_computes(estimator: str) -> None:
    assert [len(group) for group in group_advantages(GROUPS, estimator)] == [4, 2]


def test_signal_is_a_difference_of_rewards() -> None:
    assert has_signal([0.0, 0.0, 0.1])
    assert not has_signal([0.3, 0.3])
    assert not has_signal([0.3])
    assert group_advantages([], "grpo") == []
