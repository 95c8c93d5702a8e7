"""When each part of a run was busy: the rows of `timeline.jsonl`.

Knows nothing of the loop. Always holds: times are seconds since the epoch by the clock of whoever did the work; what
one worker does at once (many episodes generate side by side) is one row from the first's begin to the last's end, so
the rows of one name and one worker never overlap; nothing of a run's outcome depends on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sake_ray.metrics import Span
from sake_ray.trajectory import Trajectory

_PHASES = {
    "update": ("update", "learner"),
    "publish": ("publish", "learner"),
    "eval": ("evaluate", "rollout"),
    "checkpoint": ("checkpoint", "learner"),
}
"""Phases of the trainer that have a row; a rollout is told by what its workers did."""


def phase_rows(spans: Sequence[Span], step: int) -> list[dict[str, Any]]:
    """The trainer's phases as rows."""
    return [_row(step, *_PHASES[span.name], span.begin_s, span.end_s) for span in spans if span.name in _PHASES]


def worker_rows(trajectories: Iterable[Trajectory], step: int) -> list[dict[str, Any]]:
    """What workers did for a step's trajectories: generate, search (who: the rollout worker) and score."""
    busy: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for trajectory in trajectories:
        for turn in trajectory.turns:
            if turn.began_s is not None:
                _add(busy, ("generate", trajectory.worker), turn.began_s, turn.generate_s)
            if turn.search_began_s is not None and turn.observation is not None:
                _add(busy, ("search", trajectory.worker), turn.search_began_s, turn.observation.latency_s)
        if trajectory.score_began_s is not None and trajectory.score_s is not None:
            _add(busy, ("score", "rewards"), trajectory.score_began_s, trajectory.score_s)
    return [_row(step, name, who, *span) for (name, who), spans in sorted(busy.items()) for span in merged(spans)]


def merged(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The times in which at least one of the spans (begin, end) lies, in order and apart from each other."""
    found: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


def _add(
    busy: dict[tuple[str, str], list[tuple[float, float]]], key: tuple[str, str], begin: float, for_s: float
) -> None:
    busy.setdefault(key, []).append((begin, begin + for_s))


def _row(step: int, name: str, who: str, begin_s: float, end_s: float) -> dict[str, Any]:
    return {"step": step, "name": name, "begin_s": round(begin_s, 4), "end_s": round(end_s, 4), "who": who}
