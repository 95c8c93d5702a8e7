"""Which post comes next: seeded epochs over a data set, with a state that goes into a checkpoint.

Knows nothing of what it deals out. Always holds: every epoch is a permutation of the data set that depends
on (seed, epoch) only, so a sampler that resumes from its state deals exactly what an uninterrupted one
would.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class ExampleSampler(Generic[T]):
    """Deals items in seeded random order, epoch after epoch, without end.

    `ExampleSampler(range(n), seed)` deals indices.

    Raises:
        ValueError: there is nothing to deal.
    """

    def __init__(self, examples: Sequence[T], seed: int) -> None:
        if not examples:
            raise ValueError("a sampler needs at least one example; is the split empty?")
        self._examples = examples
        self._seed = seed
        self._epoch = 0
        self._position = 0
        self._order = self._permutation()

    def __len__(self) -> int:
        """How many items an epoch has."""
        return len(self._examples)

    @property
    def epoch(self) -> int:
        """The epoch the next item belongs to, from 0."""
        return self._epoch

    @property
    def dealt(self) -> int:
        """How many items have been dealt in all."""
        return self._epoch * len(self) + self._position

    def next(self) -> T:
        """The next item."""
        item = self._examples[self._order[self._position]]
        self._position += 1
        if self._position == len(self):
            self._epoch, self._position = self._epoch + 1, 0
            self._order = self._permutation()
        return item

    def take(self, count: int) -> list[T]:
        """The next `count` items, across the end of an epoch if need be."""
        return [self.next() for _ in range(count)]

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state."""
        return {"seed": self._seed, "size": len(self), "epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: the state is of another data set or seed, so going on would deal other items.
        """
        missing = {"seed", "size", "epoch", "position"} - set(state)
        if missing:
            raise ValueError(f"sampler state lacks {', '.join(sorted(missing))}; it was not written by a sampler")
        if state["size"] != len(self):
            raise ValueError(
                f"sampler state is of {state['size']} examples, the data set now has {len(self)}; resume with the "
                "same data.* settings, or start anew (trainer.resume=never)"
            )
        if state["seed"] != self._seed:
            raise ValueError(
                f"sampler state has seed {state['seed']}, this run {self._seed}; set run.seed={state['seed']} to resume"
            )
        if not (state["epoch"] >= 0 and 0 <= state["position"] < len(self)):
            raise ValueError(f"sampler state is out of range: {dict(state)!r:.200}")
        self._epoch, self._position = int(state["epoch"]), int(state["position"])
        self._order = self._permutation()

    def _permutation(self) -> list[int]:
        # Seeding with text goes through SHA-512 (not hash()), so it is the same in every process.
        order = list(range(len(self._examples)))
        random.Random(f"examples/{self._seed}/{self._epoch}").shuffle(order)
        return order
