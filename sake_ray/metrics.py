"""Turns trajectories into metrics, and writes metrics and trajectories where people look.

Knows nothing of Ray, models or the training loop. Always holds: a metric is a finite number under one
of `reward/ rollout/ search/ train/ time/ eval/`; `metrics.jsonl` and `trajectories.jsonl` hold one line
a step and a trajectory, in order, and after a resume nothing of the steps that are run again.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from sake_ray.data.json_files import append_lines
from sake_ray.interfaces import RolloutCounts, Tracker
from sake_ray.trajectory import Trajectory, TrajectoryGroup
from sake_ray.types import Difficulty, Example, ImageSearch, Malformed, StopReason, TextSearch

GROUPS = ("reward", "rollout", "search", "train", "time", "eval")


def mean(values: Sequence[float]) -> float:
    """The mean, and 0.0 of nothing (a share of no cases)."""
    return sum(values) / len(values) if values else 0.0


def needs_search(example: Example) -> bool | None:
    """Whether a post has an unknown entity; None where its difficulty was never tagged or is ambiguous."""
    tags = [entity.difficulty for entity in example.entities]
    if Difficulty.UNKNOWN in tags:
        return True
    return False if tags and all(tag is Difficulty.KNOWN for tag in tags) else None


def searches(trajectory: Trajectory) -> int:
    """How many of the trajectory's search turns were answered."""
    return sum(turn.observation is not None for turn in trajectory.turns)


def search_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Search behaviour (method, evaluation protocols): rates over all posts, and by what they need."""
    counts = [searches(trajectory) for trajectory in trajectories]
    metrics = {
        "search/per_episode": mean(counts),
        "search/episodes": mean([count > 0 for count in counts]),
        "search/text": mean([_asked(trajectory, TextSearch) for trajectory in trajectories]),
        "search/image": mean([_asked(trajectory, ImageSearch) for trajectory in trajectories]),
    }
    for name, needed in (("search/on_unknown", True), ("search/on_known", False)):
        picked = [n > 0 for n, t in zip(counts, trajectories, strict=True) if needs_search(t.example) is needed]
        if picked:
            metrics[name] = mean(picked)
    answers = [turn.observation for t in trajectories for turn in t.turns if turn.observation is not None]
    if answers:
        statuses = Counter(result.status for answer in answers for result in answer.results)
        metrics["search/no_result"] = statuses["no_result"] / max(1, statuses.total())
        metrics["search/failed"] = statuses["failed"] / max(1, statuses.total())
        metrics["search/latency_s"] = mean([answer.latency_s for answer in answers])
    return metrics


def rollout_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Rewards and their parts, lengths and endings of trajectories that have been scored."""
    rewards = [trajectory.reward for trajectory in trajectories if trajectory.reward is not None]
    metrics = {f"reward/{name}": mean([getattr(r, name) for r in rewards]) for name in _REWARD_PARTS}
    metrics["rollout/turns"] = mean([len(t.turns) for t in trajectories])
    metrics["rollout/tokens"] = mean([len(t.token_ids) for t in trajectories])
    metrics["rollout/sampled_tokens"] = mean([t.trained_tokens for t in trajectories])
    for reason in StopReason:
        metrics[f"rollout/stop_{reason}"] = mean([t.stop_reason is reason for t in trajectories])
    return metrics | search_metrics(trajectories)


_REWARD_PARTS = ("total", "f1", "mner_f1", "eeg_f1", "gmner_f1", "format", "searches", "retrieval_penalty")


_COUNTED = ("prompt_tokens", "generated_tokens", "preemptions", "rebuilds", "respawns")


def engine_metrics(before: RolloutCounts, after: RolloutCounts) -> dict[str, float]:
    """What the rollout pool's engines did between two counts."""
    metrics = {f"rollout/{name}": float(getattr(after, name) - getattr(before, name)) for name in _COUNTED}
    queries, hits = after.prefix_queries - before.prefix_queries, after.prefix_hits - before.prefix_hits
    metrics["rollout/prefix_hit_rate"] = hits / queries if queries else 0.0
    metrics["rollout/workers"] = float(after.workers)
    return metrics


class Span(NamedTuple):
    """From when to when something went on, in seconds since the epoch."""

    name: str
    begin_s: float
    end_s: float


class PhaseTimes:
    """Seconds spent in each phase of a step, and when: `spans` are its phases in the order of their ends."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.spans: list[Span] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the block to `name`."""
        at, began = time.time(), time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + took
            self.spans.append(Span(name, at, at + took))

    def metrics(self) -> dict[str, float]:
        """`time/<phase>_s` and their sum."""
        named = {f"time/{name}_s": seconds for name, seconds in self.seconds.items()}
        return named | {"time/step_s": sum(self.seconds.values())}


class JsonlLog:
    """An append-only JSONL file whose lines carry a `step`."""

    def __init__(self, path: Path, *, resume_after: int | None) -> None:
        """Open `path`; `resume_after=k` keeps the lines of steps up to k, None starts afresh."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = _lines_up_to(path, resume_after) if resume_after is not None and path.exists() else []
        # Replaced whole: a run that is cut off right here keeps what it had.
        scratch = path.with_name(f"{path.name}.tmp")
        scratch.write_bytes(b"".join(kept))
        os.replace(scratch, path)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows; each must have a `step`."""
        append_lines(self.path, rows)


class JsonlTracker:
    """Metrics to `metrics.jsonl`, and on to other trackers."""

    def __init__(self, log: JsonlLog, others: Sequence[Tracker] = ()) -> None:
        self._log = log
        self._others = tuple(others)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record one step.

        Raises:
            ValueError: a metric is not finite or under no known group; it would hide in a plot.
        """
        for name, value in metrics.items():
            if name.split("/", 1)[0] not in GROUPS or not math.isfinite(value):
                raise ValueError(f"step {step}: metric {name}={value} is not a finite number under {', '.join(GROUPS)}")
        self._log.append([{"step": step, **{name: float(value) for name, value in metrics.items()}}])
        for tracker in self._others:
            tracker.log(metrics, step)


def trajectory_rows(groups: Sequence[TrajectoryGroup], step: int, kind: str) -> list[dict[str, Any]]:
    """Groups as rows for `trajectories.jsonl`: what was said, searched, answered and earned."""
    return [_row(trajectory, step, kind) for group in groups for trajectory in group.trajectories]


def _row(trajectory: Trajectory, step: int, kind: str) -> dict[str, Any]:
    return {
        "step": step,
        "kind": kind,
        "id": trajectory.id,
        "example": trajectory.example.id,
        "post": trajectory.example.text,
        "image": "" if trajectory.example.image.standin is not None else trajectory.example.image.path,
        "image_size": [trajectory.example.image.width, trajectory.example.image.height],
        "gold": [
            {
                "entity": e.text,
                "type": e.type,
                "boxes": [box.as_list() for box in e.boxes],
                "difficulty": e.difficulty,
                "coarse": e.coarse_type,
                "seen": e.seen,
            }
            for e in trajectory.example.entities
        ],
        "turns": [
            {
                "text": turn.text,
                "action": type(turn.action).__name__,
                "reason": turn.action.reason if isinstance(turn.action, Malformed) else "",
                "began_s": _stamp(turn.began_s),
                "generate_s": round(turn.generate_s, 4),
                "search_began_s": _stamp(turn.search_began_s),
                "results": _results(turn.observation),
                "search_s": round(turn.observation.latency_s, 4) if turn.observation else None,
            }
            for turn in trajectory.turns
        ],
        "stop_reason": trajectory.stop_reason,
        "reward": asdict(trajectory.reward) if trajectory.reward else None,
        "advantage": trajectory.advantage,
        "tokens": len(trajectory.token_ids),
        "sampled_tokens": trajectory.trained_tokens,
        "version": trajectory.oldest_version,
        "worker": trajectory.worker,
        "score_began_s": _stamp(trajectory.score_began_s),
        "score_s": _stamp(trajectory.score_s),
    }


def _stamp(seconds: float | None) -> float | None:
    """Seconds to a tenth of a millisecond."""
    return None if seconds is None else round(seconds, 4)


def _results(observation: Any) -> list[dict[str, Any]] | None:
    if observation is None:
        return None
    return [
        {
            "query": r.query,
            "status": r.status,
            "reason": r.reason,
            "text": r.text,
            "images": len(r.images),
            "pictures": [image.path for image in r.images],
            "cached": r.cached,
        }
        for r in observation.results
    ]


def _asked(trajectory: Trajectory, kind: type[TextSearch] | type[ImageSearch]) -> bool:
    return any(isinstance(turn.action, kind) and turn.observation is not None for turn in trajectory.turns)


def _lines_up_to(path: Path, last: int) -> list[bytes]:
    """The lines of steps up to `last`, whole ones only: a killed run may have left half a line at the end.

    Raises:
        ValueError: a whole line is no row with a step.
    """
    kept = []
    # Bytes, because the half line may end inside a character; and "\n" alone ends a line, because posts hold
    # characters (U+0085, U+2028 …) that str.splitlines would cut at.
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            belongs = json.loads(line)["step"] <= last
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}:{number}: not a JSON row with a step; repair or remove that line") from error
        if belongs:
            kept.append(line + b"\n")
    return kept
