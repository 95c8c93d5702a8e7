"""The sampler deals every example once an epoch, and a resumed one deals what an uninterrupted one would."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sake_ray.data.sampler import ExampleSampler

WEIGHTS = st.none() | st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.25]), min_size=1, max_size=40).filter(any)


@given(
    st.integers(1, 40), st.integers(0, 10), st.lists(st.integers(0, 30), max_size=6), st.integers(0, 50), WEIGHTS
)  # fmt: skip
def test_resume_equals_uninterrupted(
    size: int, seed: int, before: list[int], after: int, weights: list[float] | None
) -> None:
    size = size if weights is None else len(weights)
    straight = ExampleSampler(range(size), seed, weights)
    expected = straight.take(sum(before) + after)
    dealt: list[int] = []
    sampler = ExampleSampler(range(size), seed, weights)
    for count in before:
        dealt += sampler.take(count)
        state = json.loads(json.dumps(sampler.state_dict()))  # through a checkpoint
        sampler = ExampleSampler(range(size), seed, weights)
        sampler.load_state_dict(state)
    dealt += sampler.take(after)
    assert dealt == expected
    assert sampler.dealt == straight.dealt == len(expected)


@given(st.integers(1, 40), st.integers(0, 10))
def test_an_epoch_is_a_permutation(size: int, seed: int) -> None:
    sampler = ExampleSampler([f"post {i}" for i in range(size)], seed)
    for epoch in range(3):
        assert sampler.epoch == epoch
        assert sorted(sampler.take(size)) == sorted(f"post {i}" for i in range(size))


def test_weights_say_how_often_an_epoch_has_an_item() -> None:
    sampler = ExampleSampler(["never", "half", "once", "twice"], 5, [0, 0.5, 1, 2])
    counts: Counter[str] = Counter()
    while sampler.epoch < 200:
        counts[sampler.next()] += 1
    assert (counts["never"], counts["once"], counts["twice"]) == (0, 200, 400)
    assert 70 < counts["half"] < 130


def test_weights_that_are_none_are_refused() -> None:
    for weights in ([1.0], [0.0, 0.0], [1.0, -1.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="weights"):
            ExampleSampler("ab", 0, weights)


def test_epochs_and_seeds_differ_and_the_order_is_the_same_on_every_machine() -> None:
    sampler = ExampleSampler(range(8), seed=3)
    first, second = sampler.take(8), sampler.take(8)
    assert first != second
    assert first != ExampleSampler(range(8), seed=4).take(8)
    assert first == [0, 7, 6, 5, 2, 1, 3, 4]


def test_a_state_of_another_data_set_or_seed_is_refused() -> None:
    state = ExampleSampler(range(5), seed=1).state_dict()
    with pytest.raises(ValueError, match="5 examples"):
        ExampleSampler(range(6), seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match=r"run\.seed=1"):
        ExampleSampler(range(5), seed=2).load_state_dict(state)
    with pytest.raises(ValueError, match="lacks dealt"):
        ExampleSampler(range(5), seed=1).load_state_dict(
            {"seed": 1, "size": 5, "epoch": 0, "weights": "", "position": 0}
        )
    with pytest.raises(ValueError, match="other weights"):
        ExampleSampler(range(5), 1, [1.0] * 5).load_state_dict(state)
    with pytest.raises(ValueError, match="out of range"):
        ExampleSampler(range(5), seed=1).load_state_dict({**state, "position": 5})
    with pytest.raises(ValueError, match="empty"):
        ExampleSampler([], seed=1)
