"""A run in miniature: everything the trainer talks to, small, deterministic and with a state that matters.

The policy is one number. What is sampled depends on it and on the seed, what is trained changes it depending
on tokens, order and advantages, so a run that samples, scores, trains, saves or loads anything wrongly ends
with another number. Sampler, evaluator, logs and checkpoint folders are the real ones. `happening` is called
with the name of every call before it acts: a test may ask for a stop there, or raise.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sake_ray.config.guard_section import GuardConfig
from sake_ray.data.sampler import ExampleSampler
from sake_ray.interfaces import LearnerClient, RolloutCounts
from sake_ray.metrics import JsonlLog, JsonlTracker
from sake_ray.trainer.checkpoint import CheckpointStore
from sake_ray.trainer.evaluator import GreedyEvaluator, Prediction
from sake_ray.trainer.guard import CollapseGuard
from sake_ray.trainer.producer import GroupProducer, ProducerSettings
from sake_ray.trainer.trainer import Best, Trainer, TrainerSettings
from sake_ray.trajectory import Segment, Trajectory, TrajectoryGroup, Turn
from sake_ray.types import (
    Answer,
    Completion,
    Difficulty,
    Entity,
    Example,
    ImageRef,
    PredictedEntity,
    Progress,
    Reward,
    StopReason,
)

PIXELS: dict[str, Any] = {"min_pixels": 100, "max_pixels": 100 * 100}
SETTINGS = TrainerSettings(total_steps=6, eval_every=3, checkpoint_every=2, advantage="grpo", best_by="eval/gmner_f1")
GROUPS = ProducerSettings(groups_per_step=2, group_size=3, seed=5, refills=4)
GUARDED = GuardConfig()
EVENTS = ("rollout", "reward", "update", "publish", "save", "greedy")


def make_post(name: str, difficulty: Difficulty | None = None, seen: bool | None = None) -> Example:
    """A post with one entity. Every trajectory of a post whose name starts with `flat` earns the same."""
    entity = Entity(name, "PER", difficulty=difficulty, seen=seen)
    return Example(name, f"a post on {name} …\u2028", ImageRef(f"{name}.png", 100, 100), (entity,))


POSTS = tuple(make_post(name) for name in ("flat-0", "a", "b", "c", "flat-1", "d", "e"))
HELD_OUT = (make_post("known", Difficulty.KNOWN, True), make_post("unseen", Difficulty.UNKNOWN, False))


def digest(*parts: object) -> int:
    """A number that any change of the parts changes."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:4], "big")


def make_reward(total: float) -> Reward:
    return Reward(total, total, total, total, total, 1.0, 0, 0.0)


@dataclass
class FakeRollout:
    """Samples from the weights published last; groups finish in another order than they were asked for."""

    happening: Callable[[str], None]
    weights: int | None = None
    version: int = -1
    tokens: int = 0
    asked: list[tuple[int, str, tuple[int, ...]]] = field(default_factory=list)

    async def rollout(self, example: Example, *, seeds: Sequence[int], greedy: bool = False) -> TrajectoryGroup:
        self.happening("greedy" if greedy else "rollout")
        if not greedy:
            self.asked.append((self.version, example.id, tuple(seeds)))
        for _ in range(digest(example.id, *seeds) % 5):
            await asyncio.sleep(0)
        group = TrajectoryGroup(example, [self._episode(example, seed) for seed in seeds])
        self.tokens += sum(t.trained_tokens for t in group.trajectories)
        return group

    async def counts(self) -> RolloutCounts:
        """Some that tell one rollout from another."""
        return RolloutCounts(1, 3 * self.tokens, self.tokens, prefix_queries=2 * self.tokens, prefix_hits=self.tokens)

    def _episode(self, example: Example, seed: int) -> Trajectory:
        tokens = tuple(digest(self.weights, seed, example.id, i) % 100 for i in range(3))
        trajectory = Trajectory(f"{example.id}-{seed}", example)
        trajectory.append_observation(Segment((1, 2), (1, 1, 2)))
        trajectory.append_completion(Completion(tokens, (-0.5,) * 3, str(tokens), "stop", self.version))
        answer = Answer((PredictedEntity(str(tokens[0]), "PER", None),))
        trajectory.turns.append(Turn(str(tokens), answer))
        trajectory.finish(StopReason.ANSWER)
        return trajectory


@dataclass
class FakeRewards:
    """Rewards by the last sampled token."""

    happening: Callable[[str], None]

    async def score(self, trajectories: Sequence[Trajectory]) -> list[Reward]:
        self.happening("reward")
        await asyncio.sleep(0)
        flat = trajectories[0].example.id.startswith("flat")
        return [make_reward(0.5 if flat else t.token_ids[-1] / 100) for t in trajectories]


@dataclass
class FakeLearner:
    """One number as model and one as optimiser."""

    happening: Callable[[str], None]
    rollout: FakeRollout
    weights: int = 1
    updates: int = 0
    trained: list[list[Trajectory]] = field(default_factory=list)

    async def update(self, trajectories: Sequence[Trajectory]) -> Mapping[str, float]:
        self.happening("update")
        await asyncio.sleep(0)
        batch = [(t.id, t.token_ids, t.reward.total if t.reward else None, t.advantage) for t in trajectories]
        assert all(advantage is not None for *_, advantage in batch)
        self.weights = digest(self.weights, self.updates, batch)
        self.updates += 1
        self.trained.append(list(trajectories))
        return {"train/loss": self.weights / 2**32}

    async def publish(self, version: int) -> Mapping[str, float]:
        self.happening("publish")
        await asyncio.sleep(0)
        self.rollout.weights, self.rollout.version = self.weights, version
        return {"time/weight_sync_s": 0.25}

    async def save(self, folder: Path) -> None:
        self.happening("save")
        _write(folder, "numbers.json", json.dumps([self.weights, self.updates]))

    async def load(self, folder: Path) -> None:
        self.weights, self.updates = json.loads((folder / "numbers.json").read_text())

    async def export(self, folder: Path) -> None:
        _write(folder, "weights", str(self.weights))

    async def restart(self) -> None:
        self.happening("restart")
        self.weights, self.updates = 1, 0


def _write(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)


@dataclass
class StoredCheckpoints:
    """The real store."""

    store: CheckpointStore

    async def save(self, learner: LearnerClient, state: Mapping[str, Any], step: int) -> None:
        self.store.protected = frozenset() if state["best"] is None else frozenset({state["best"]["step"]})
        if not (self.store.root / f"step-{step:06d}").exists():
            await self.store.save(step, state, lambda folder: learner.save(folder / "learner"))


@dataclass
class SeenDisplay:
    """Remembers what people were shown."""

    phases: list[tuple[int, str]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def phase(self, step: int, name: str) -> None:
        self.phases.append((step, name))

    def group_done(self, done: int, total: int) -> None:
        assert done <= total

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self.steps.append(step)


def share_right(predictions: Sequence[Sequence[Prediction]], examples: Sequence[Example]) -> dict[str, float]:
    """A score that changes with every prediction; 10 makes the second of three evaluations the best."""
    return {"gmner_f1": digest(10, [[p.text for p in said] for said in predictions], len(examples)) / 2**32}


@dataclass
class Run:
    """One process of a run in `folder`: from its newest checkpoint if there is one."""

    trainer: Trainer
    rollout: FakeRollout
    learner: FakeLearner
    display: SeenDisplay
    events: list[str]

    @staticmethod
    async def start(
        folder: Path,
        settings: TrainerSettings = SETTINGS,
        *,
        groups: ProducerSettings = GROUPS,
        posts: Sequence[Example] = POSTS,
        at: Callable[[int, str, Run], None] = lambda number, name, run: None,
        guarded: GuardConfig = GUARDED,
    ) -> Run:
        """Open the run's folder; `at(number, name, run)` is called at every event."""
        events: list[str] = []

        def happening(name: str) -> None:
            events.append(name)
            at(len(events) - 1, name, run)

        store = CheckpointStore(folder / "checkpoints")
        found = store.find_latest()
        after = None if found is None else found.step
        unevaluated = None if found is None else found.state["unevaluated"]
        whole = found.step - 1 if found is not None and unevaluated is not None else after
        rollout = FakeRollout(happening)
        learner = FakeLearner(happening, rollout)
        producer = GroupProducer(
            groups,
            rollout,
            FakeRewards(happening),
            ExampleSampler(posts, groups.seed),
            {post.id: post for post in posts}.__getitem__,
        )
        progress, guard, best = Progress(), CollapseGuard(guarded), None
        if found is not None:
            guard.load_state_dict(found.state["guard"])
            best = None if found.state["best"] is None else Best(**found.state["best"])
            await learner.load(found.folder / "learner")
            producer.load_state_dict(found.state)
            progress = Progress(**found.state["progress"])
        evaluation_log = JsonlLog(folder / "eval_trajectories.jsonl", resume_after=whole)
        evaluator = GreedyEvaluator(rollout, HELD_OUT, share_right, **PIXELS, trajectory_log=evaluation_log)
        display = SeenDisplay()
        trainer = Trainer(
            settings,
            producer=producer,
            rollout=rollout,
            learner=learner,
            evaluator=evaluator,
            checkpoints=StoredCheckpoints(store),
            tracker=JsonlTracker(JsonlLog(folder / "metrics.jsonl", resume_after=whole)),
            trajectory_log=JsonlLog(folder / "trajectories.jsonl", resume_after=after),
            display=display,
            progress=progress,
            evaluate_first=found is None,
            unevaluated=unevaluated,
            best=best,
            guard=guard,
            alert_log=JsonlLog(folder / "alerts.jsonl", resume_after=after),
            timeline=JsonlLog(folder / "timeline.jsonl", resume_after=after),
        )
        run = Run(trainer, rollout, learner, display, events)
        return run


def rows(path: Path) -> list[dict[str, Any]]:
    """A log's rows without what depends on the clock."""
    return [dict(_timeless(json.loads(line))) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


_CLOCK = ("rollout/tokens_per_s", "score_began_s", "score_s")


def _timeless(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in row.items() if not key.startswith("time/") and key not in _CLOCK)


@dataclass(frozen=True)
class Outcome:
    """What a run leaves behind: its newest checkpoint and its logs."""

    step: int
    state: dict[str, Any]
    learner: str
    metrics: list[dict[str, Any]] = field(repr=False)
    trajectories: list[dict[str, Any]] = field(repr=False)
    evaluations: list[dict[str, Any]] = field(repr=False)
    alerts: list[dict[str, Any]] = field(repr=False)

    @staticmethod
    def of(folder: Path) -> Outcome:
        found = CheckpointStore(folder / "checkpoints").find_latest()
        assert found is not None
        return Outcome(
            found.step,
            found.state,
            (found.folder / "learner" / "numbers.json").read_text(),
            rows(folder / "metrics.jsonl"),
            rows(folder / "trajectories.jsonl"),
            rows(folder / "eval_trajectories.jsonl"),
            rows(folder / "alerts.jsonl"),
        )
