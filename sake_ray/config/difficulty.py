"""Which tagged posts RL trains on, and how often: the setting `data.difficulty`, read and applied.

Knows nothing of how tags are made. Always holds: a weight is finite and not negative, and at least one is above 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from sake_ray.config.values import ConfigError, nearest
from sake_ray.types import Difficulty

FIELD = "data.difficulty"


def parse_weights(text: str) -> dict[Difficulty, float]:
    """`ambiguous,unknown:0.5,known:0.5` as weights; what is not named has weight 0.

    Raises:
        ConfigError: an unknown or repeated difficulty, no number, or nothing left to train on.
    """
    weights = dict.fromkeys(Difficulty, 0.0)
    named: set[str] = set()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, colon, number = (piece.strip() for piece in part.partition(":"))
        if name not in set(Difficulty):
            best = nearest(name, [str(difficulty) for difficulty in Difficulty])[0]
            raise ConfigError(f"{FIELD}={text}: {name!r} is no difficulty; nearest: {FIELD}={best}")
        if name in named:
            raise ConfigError(f"{FIELD}={text}: {name} is named twice")
        named.add(name)
        try:
            weight = float(number) if colon else 1.0
        except ValueError:
            raise ConfigError(f"{FIELD}={text}: {number!r} is no weight; write for instance {name}:0.5") from None
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"{FIELD}={text}: the weight of {name} must be a finite number from 0 on")
        weights[Difficulty(name)] = weight
    if not any(weights.values()):
        raise ConfigError(f"{FIELD}={text}: no difficulty has a weight above 0; the default is {FIELD}=ambiguous")
    return weights


def weights_of(hardest: Sequence[Difficulty | None], weights: dict[Difficulty, float]) -> list[float]:
    """The weight of each post; one without entities, where there is nothing to look up, counts as known.

    Raises:
        ConfigError: every post has weight 0.
    """
    found = [weights[difficulty or Difficulty.KNOWN] for difficulty in hardest]
    if not any(found):
        counts = Counter(str(difficulty or Difficulty.KNOWN) for difficulty in hardest)
        there = ", ".join(f"{name} {count}" for name, count in counts.items()) or "none at all"
        asked = ",".join(f"{name}:{weight:g}" for name, weight in weights.items() if weight)
        raise ConfigError(f"{FIELD}={asked}: leaves no training post; there are: {there}")
    return found
