"""The order in which the cold start sees its trajectories.

Knows nothing of what they hold. Always holds: the same lengths and seed give the same batches; an epoch has every
trajectory once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence


def token_batches(lengths: Sequence[int], batch_tokens: int, epochs: int, seed: int) -> Iterator[list[int]]:
    """Indices in batches of about `batch_tokens` tokens, reshuffled every epoch."""
    for epoch in range(epochs):
        order = list(range(len(lengths)))
        random.Random(f"cold-start-{seed}-epoch-{epoch}").shuffle(order)
        batch: list[int] = []
        tokens = 0
        for index in order:
            batch.append(index)
            tokens += lengths[index]
            if tokens >= batch_tokens:
                yield batch
                batch, tokens = [], 0
        if batch:
            yield batch
