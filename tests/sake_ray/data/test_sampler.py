"""The sampler deals every example once an epoch, and a resumed one deals what an uninterrupted one would."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sake_ray.data.sampler import ExampleSampler


@given(st.integers(1, 40), st.integers(0, 10), st.lists(st.integers(0, 30), max_size=6), st.integers(0, 50))
def test_resume_equals_uninterrupted(size: int, seed: int, before: list[int], after: int) -> None:
    straight = ExampleSampler(range(size), seed)
    expected = straight.take(sum(before) + after)
    dealt: list[int] = []
    sampler = ExampleSampler(range(size), seed)
    for count in before:
        dealt += sampler.take(count)
        state = json.loads(json.dumps(sampler.state_dict()))  # through a checkpoint
        sampler = ExampleSampler(range(size), seed)
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
    with pytest.raises(ValueError, match="lacks position"):
        ExampleSampler(range(5), seed=1).load_state_dict({"seed": 1, "size": 5, "epoch": 0})
    with pytest.raises(ValueError, match="out of range"):
        ExampleSampler(range(5), seed=1).load_state_dict({**state, "position": 5})
    with pytest.raises(ValueError, match="empty"):
        ExampleSampler([], seed=1)
