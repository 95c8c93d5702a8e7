"""Which post comes next: seeded epochs over a data set, with a state that goes into a checkpoint.

Knows nothing of what it deals out. Always holds: every epoch is an order of the data set that depends on (seed,
epoch) only, so a sampler that resumes from its state deals exactly what an uninterrupted one would. Without weights
an epoch is a permutation; with them an item of weight w occurs floor(w) times in it, and once more with probability
w - floor(w).
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class ExampleSampler(Generic[T]):
    """Deals items in seeded random order, epoch after epoch, without end.

    `ExampleSampler(range(n), seed)` deals indices; `weights`, one an item, say how often an epoch has it.

    Raises:
        ValueError: there is nothing to deal, or weights that are no weights.
    """

    def __init__(self, examples: Sequence[T], seed: int, weights: Sequence[float] | None = None) -> None:
        if not examples:
            raise ValueError("a sampler needs at least one example; is the split empty?")
        if weights is not None:
            if len(weights) != len(examples):
                raise ValueError(f"{len(weights)} weights for {len(examples)} examples; one each is needed")
            if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
                raise ValueError("sampler weights must be finite, 0 or more, and not all 0")
        self._examples = examples
        self._weights = None if weights is None else tuple(float(weight) for weight in weights)
        self._dealt = 0
        self._seed = seed
        self._begin_epoch(0)

    def __len__(self) -> int:
        """How many items there are."""
        return len(self._examples)

    @property
    def epoch(self) -> int:
        """The epoch the next item belongs to, from 0."""
        return self._epoch

    @property
    def dealt(self) -> int:
        """How many items have been dealt in all."""
        return self._dealt

    def next(self) -> T:
        """The next item."""
        item = self._examples[self._order[self._position]]
        self._position += 1
        self._dealt += 1
        if self._position == len(self._order):
            self._begin_epoch(self._epoch + 1)
        return item

    def take(self, count: int) -> list[T]:
        """The next `count` items, across the end of an epoch if need be."""
        return [self.next() for _ in range(count)]

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state."""
        return {
            "seed": self._seed, "size": len(self), "weights": self._weights_digest(), "epoch": self._epoch,
            "position": self._position, "dealt": self._dealt,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: the state is of another data set, seed or weights, so going on would deal other items.
        """
        missing = {"seed", "size", "weights", "epoch", "position", "dealt"} - set(state)
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
        if state["weights"] != self._weights_digest():
            raise ValueError(
                "sampler state is of other weights; resume with the same data.difficulty and tags, or start anew "
                "(trainer.resume=never)"
            )
        epoch, position, dealt = int(state["epoch"]), int(state["position"]), int(state["dealt"])
        order = self._permutation(epoch) if epoch >= 0 else []
        if not (0 <= position < len(order) and dealt >= 0):
            raise ValueError(f"sampler state is out of range: {dict(state)!r:.200}")
        self._epoch, self._position, self._dealt, self._order = epoch, position, dealt, order

    def _begin_epoch(self, epoch: int) -> None:
        """Go to `epoch`, or to the first one after it in which any item occurs."""
        while not (order := self._permutation(epoch)):
            epoch += 1
        self._epoch, self._position, self._order = epoch, 0, order

    def _permutation(self, epoch: int) -> list[int]:
        # Seeding with text goes through SHA-512 (not hash()), so it is the same in every process.
        chance = random.Random(f"examples/{self._seed}/{epoch}")
        if self._weights is None:
            order = list(range(len(self._examples)))
        else:
            draws = [random.Random(f"copies/{self._seed}/{epoch}/{i}").random() for i in range(len(self._weights))]
            copies = [int(weight) + (draw < weight % 1) for weight, draw in zip(self._weights, draws, strict=True)]
            order = [index for index, count in enumerate(copies) for _ in range(count)]
        chance.shuffle(order)
        return order

    def _weights_digest(self) -> str:
        """What identifies the weights; "" without any."""
        if self._weights is None:
            return ""
        return hashlib.sha256(json.dumps(self._weights).encode()).hexdigest()[:12]
