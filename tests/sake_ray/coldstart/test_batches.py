"""The cold start's batches: every trajectory once an epoch, and the same ones every time."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sake_ray.coldstart.batches import token_batches


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=30), budget=st.integers(1, 120), epochs=st.integers(1, 3)
)
def test_every_epoch_takes_every_trajectory_once(lengths: list[int], budget: int, epochs: int) -> None:
    """Batches close as soon as they hold the asked tokens; only an epoch's last one may hold fewer."""
    batches = list(token_batches(lengths, budget, epochs, seed=0))
    assert batches == list(token_batches(lengths, budget, epochs, seed=0))
    rest: list[Any] = list(batches)
    for _ in range(epochs):
        taken: list[int] = []
        while len(taken) < len(lengths):
            batch = rest.pop(0)
            taken += batch
            tokens = [lengths[index] for index in batch]
            assert sum(tokens[:-1]) < budget
            assert sum(tokens) >= budget or len(taken) == len(lengths)
        assert sorted(taken) == list(range(len(lengths)))
    assert not rest


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first, second, other = (
        [index for batch in token_batches([1] * 50, 50, epochs, seed) for index in batch][-50:]
        for epochs, seed in ((1, 0), (2, 0), (1, 1))
    )
    assert len({tuple(order) for order in (first, second, other)}) == 3
