"""The reward pool: pure CPU scoring in actors, a batch at a time.

Knows nothing of how a reward is computed. Always holds: one reward a trajectory, in order; a worker that dies is
started anew, and what it was scoring is scored again, a bounded number of times; a crash in scoring stops the run with
the trajectory that caused it saved, and is never a 0.0.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray

from actors.actor_host import RayHost
from actors.actor_state import ActorState
from actors.crew import Crew
from actors.placement import REWARD, Resources, actor_name, actor_options
from sake_ray.trajectory import Trajectory
from sake_ray.types import Reward

_RETRIES = 3
DEFAULT_BATCH = 64


class RewardError(RuntimeError):
    """Scoring crashed; the message says on which trajectory, where it is saved, and how it crashed."""


class TrajectoryScorer(Protocol):
    """What a reward worker needs of a scorer."""

    def score(self, trajectory: Trajectory) -> Reward:
        """The reward of one finished trajectory."""
        ...


@dataclass(frozen=True)
class Crash:
    """A crash in scoring, as it travels: which member of the batch, and the traceback's text."""

    index: int
    traceback: str


class RewardWorker:
    """Scores batches; a plain class that the pool makes an actor."""

    def __init__(self, name: str, make_scorer: Callable[[], TrajectoryScorer]) -> None:
        self.name = name
        self._scorer = make_scorer()

    def __repr__(self) -> str:
        return self.name

    async def score(self, trajectories: Sequence[Trajectory]) -> list[Reward] | Crash:
        """The rewards in order, or the first crash, which the pool raises in the driver."""
        rewards = []
        for index, trajectory in enumerate(trajectories):
            try:
                rewards.append(self._scorer.score(trajectory))
            except Exception:  # noqa: BLE001
                # Broad on purpose: a scorer may fail in any way, and whichever it is must reach the driver together
                # with its trajectory, so that the pool saves that and stops the run. Nothing becomes a reward here.
                # As a value, because an exception class of a user's scorer may not survive pickling.
                return Crash(index, traceback.format_exc())
            await asyncio.sleep(0)  # others may ask how it stands
        return rewards


class RewardPool:
    """`RewardClient` and `ScalablePool` over reward actors; lives in the driver.

    `spawn(index)` places an actor, which takes `resources` (for messages).
    """

    def __init__(
        self,
        spawn: Callable[[int], Any],
        workers: int,
        crash_folder: Path,
        *,
        resources: Resources | None = None,
        batch: int = DEFAULT_BATCH,
    ) -> None:
        self._crash_folder = crash_folder
        self._batch = batch
        self._pending: Counter[Any] = Counter()
        self._crew = Crew(
            REWARD,
            workers,
            RayHost(spawn, resources),
            started=lambda handle: handle.state.remote(),
            see_off=self._see_off,
            changed=lambda: None,
        )

    @classmethod
    def start(
        cls,
        make_scorer: Callable[[], TrajectoryScorer],
        *,
        workers: int,
        crash_folder: Path,
        resources: Resources | None = None,
        batch: int = DEFAULT_BATCH,
    ) -> RewardPool:
        """Place `workers` actors, each with a scorer of its own; a crash's trajectory is saved in `crash_folder`."""
        from actors.reward_actor import RewardActor

        taken = resources or Resources(cpus=0)

        def spawn(index: int) -> Any:
            name = actor_name(REWARD, index)
            # Scoring is pure, so Ray itself may restart the actor and score the batch again.
            options = actor_options(name, taken) | {"max_restarts": -1, "max_task_retries": _RETRIES}
            return ray.remote(RewardActor).options(**options).remote(name, make_scorer)

        return cls(spawn, workers, crash_folder, resources=taken, batch=batch)

    @property
    def size(self) -> int:
        """How many workers it is to have."""
        return self._crew.size

    async def resize(self, workers: int) -> None:
        """See `ScalablePool.resize`."""
        self._crew.resize(workers)

    async def states(self) -> list[ActorState]:
        """See `ScalablePool.states`."""

        async def look(worker: Any) -> tuple[str, dict[str, float]]:
            node, scored, pending = await worker.state.remote()
            return node, {"scored": float(scored), "pending": float(pending)}

        self._crew.check()
        return await self._crew.states(look)

    async def score(self, trajectories: Sequence[Trajectory]) -> list[Reward]:
        """Score all, in batches spread over the workers.

        Raises:
            RewardError: scoring crashed, or workers died over it too often.
        """
        self._crew.check()
        batches = [list(trajectories[at : at + self._batch]) for at in range(0, len(trajectories), self._batch)]
        rewards = await asyncio.gather(*(self._score_batch(batch) for batch in batches))
        return [reward for part in rewards for reward in part]

    async def shutdown(self) -> None:
        """Stop the actors."""
        for worker in await self._crew.stop():
            ray.kill(worker)

    async def _see_off(self, worker: Any) -> None:
        while self._pending[worker]:  # noqa: ASYNC110 - a rare wait for what takes moments
            await asyncio.sleep(0.05)
        del self._pending[worker]

    async def _score_batch(self, batch: list[Trajectory]) -> list[Reward]:
        worker = min(self._crew.serving, key=lambda handle: self._pending[handle])
        self._pending[worker] += len(batch)
        try:
            answer: list[Reward] | Crash = await worker.score.remote(batch)
        except ray.exceptions.RayActorError as error:
            path = save_trajectories(batch, self._crash_folder)
            raise RewardError(
                f"a reward worker died {_RETRIES + 1} times over {len(batch)} trajectories, saved in {path}"
            ) from error
        finally:
            self._pending[worker] -= len(batch)
        if isinstance(answer, Crash):
            trajectory = batch[answer.index]
            path = save_trajectories([trajectory], self._crash_folder)
            raise RewardError(
                f"scoring crashed on trajectory {trajectory.id}, saved in {path}; the worker's traceback:\n"
                f"{answer.traceback}"
            )
        if len(answer) != len(batch):
            raise RewardError(f"a reward worker gave {len(answer)} rewards for {len(batch)} trajectories")
        return answer


def save_trajectories(trajectories: Iterable[Trajectory], folder: Path) -> Path:
    """Write trajectories as a JSON list into a new file of `folder` and return its path."""
    records = [trajectory_record(trajectory) for trajectory in trajectories]
    text = json.dumps(records, indent=1)  # ASCII: sampled text may hold what UTF-8 cannot
    # Ids come from data: only harmless characters get into the name, and a hash keeps it unique.
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", records[0]["id"])[:80] if records else "none"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}.json"
    path.write_text(text, encoding="utf-8")
    return path


def trajectory_record(trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory as JSON-able values, encoded pictures left out (their length stands in their place)."""
    record = _plain(dataclasses.asdict(trajectory))
    for turn, plain in zip(trajectory.turns, record["turns"], strict=True):
        plain["action"] = {"kind": type(turn.action).__name__, **plain["action"]}
    return dict(record)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    return value
