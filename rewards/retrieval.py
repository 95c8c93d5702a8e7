"""What searching costs.

Knows nothing of how searches were asked or answered. Always holds: a penalty is never negative, and an
episode whose F1 is below the bar pays nothing, so searching is never what a wrong answer is punished for.
"""

from __future__ import annotations

RELEASED_COST = 0.01
RELEASED_BAR = 0.9


def paper_penalty(f1: float, searches: int, *, weight: float, gamma: float) -> float:
    """`λ_search · 1[R_F1 ≥ γ] · N_search`."""
    return weight * searches if f1 >= gamma else 0.0


def released_penalty(f1: float, search_turns: int, *, enabled: bool) -> float:
    """0.01 a search turn, taken off an `R_F1` above 0.9, and only behind `use_search_count_penalty`."""
    return RELEASED_COST * search_turns if enabled and f1 > RELEASED_BAR else 0.0
