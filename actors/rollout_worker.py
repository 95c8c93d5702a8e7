"""One rollout worker: runs whole groups of episodes on its own engine, each trajectory its own task.

Knows nothing of vLLM, Ray or rewards: engine, codec and search are handed in, so tests use this class
directly; `actors/rollout_actor.py` makes it an actor. Always holds: no trajectory waits for another
(no turn barrier); a rebuilt engine has the current weights before it serves; a trajectory cut off by
a lost engine is run again from its start with its own seed; the clock of its deadline goes on meanwhile, and whoever
stops waiting for a rebuild does not stop the rebuild; what the engine was really shown equals what the trajectory
records, id for id.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from actors.play import Play
from actors.rollout_stats import EngineStats, WorkerStats
from actors.vllm_engine import EngineLost
from actors.weight_sync import Params, WeightSyncError
from envs.episode import EpisodeLimits, run_episode
from sake_ray.interfaces import Codec, SearchClient
from sake_ray.trajectory import Trajectory, TrajectoryGroup
from sake_ray.types import Completion, Example, ImageRef

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_NO_TIME_S = 1e-6


class WorkerBroken(RuntimeError):
    """The worker's engine cannot be brought back; the worker must be replaced."""


class Engine(Protocol):
    """What a worker needs of an engine (`VllmEngine`, or a fake in tests)."""

    stats: EngineStats

    async def start(self, version: int = 0) -> None:
        """Come up with the weights on disk, which are `version`."""
        ...

    async def generate(
        self,
        short_ids: Sequence[int],
        images: Sequence[Image],
        *,
        max_tokens: int,
        seed: int,
        temperature: float | None = None,
        heard: Callable[[str], None] | None = None,
    ) -> tuple[Completion, tuple[int, ...]]:
        """Continue the ids; returns the completion and the expanded ids of the prompt.

        `temperature` None is the engine's own, 0 greedy; `heard` is given the text as it comes.
        """
        ...

    async def update_weights(self, params: Params, version: int) -> Mapping[str, float]:
        """Replace all weights."""
        ...

    def shutdown(self) -> None:
        """Stop its processes."""
        ...


class RolloutWorker:
    """An engine, a codec and a search client, and the episodes that run on them."""

    def __init__(
        self,
        name: str,
        make_engine: Callable[[], Engine],
        codec: Codec,
        search: SearchClient,
        *,
        limits: EpisodeLimits,
        load_image: Callable[[ImageRef], Image],
        max_rebuilds: int = 3,
    ) -> None:
        self.name = name
        self._make_engine = make_engine
        self._codec = codec
        self._search = search
        self._limits = limits
        self._load_image = load_image
        self._max_rebuilds = max_rebuilds
        self._engine: Engine | None = None
        self._on_disk = 0  # the version of the weights that an engine comes up with
        self._weights: tuple[Params, int] | None = None
        self._changing = asyncio.Lock()
        self._rebuilds = 0
        self._rebuilds_in_a_row = 0
        self._trajectories = 0
        self._past = EngineStats()
        self._mending: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return self.name

    async def start(self, params: Params | None = None, version: int = 0) -> None:
        """Start the engine; with `params`, it has them as `version` before this returns, else `version` is on disk."""
        async with self._changing:
            if params is None:
                self._on_disk = version
            else:
                self._weights = (params, version)
            await self._bring_up()

    async def rollout_group(
        self, example: Example, seeds: Sequence[int], greedy: bool = False, group_id: str = ""
    ) -> TrajectoryGroup:
        """Run one episode per seed, all at once.

        Raises:
            WorkerBroken: the engine could not be brought back; nothing of the group is kept.
            PromptTooLong: the post's prompt leaves no room for an answer.
            ValueError: no seeds, or an episode found its input impossible.
        """
        if not seeds:
            raise ValueError(f"post {example.id}: a group needs at least one seed")
        group_id = group_id or f"{example.id}-{seeds[0]:016x}"
        images = _GroupImages(self._load_image)
        trajectories = await _all_or_first_error(
            [
                self._trajectory(
                    example, Play(seed, self._limits, 0.0 if greedy else None), f"{group_id}.{index}", images
                )
                for index, seed in enumerate(seeds)
            ]
        )
        return TrajectoryGroup(example, trajectories)

    async def play(self, example: Example, how: Play, trajectory_id: str) -> Trajectory:
        """Run one episode as asked.

        Raises:
            WorkerBroken: the engine could not be brought back.
            PromptTooLong: the post's prompt leaves no room for an answer.
            ValueError: the episode found its input impossible in another way.
        """
        return await self._trajectory(example, how, trajectory_id, _GroupImages(self._load_image))

    async def update_weights(self, params: Params, version: int) -> Mapping[str, float]:
        """Give the engine new weights, over a rebuild if need be; returns seconds and bytes.

        Raises:
            WeightSyncError: the parameters cannot be handed over; the old weights still serve.
            WorkerBroken: not even a fresh engine took them.
        """
        async with self._changing:
            previous, self._weights = self._weights, (params, version)
            engine = self._running()
            begin = time.monotonic()
            try:
                return await engine.update_weights(params, version)
            except EngineLost as lost:
                await self._replace(lost)
                return {"pause_s": 0.0, "load_s": time.monotonic() - begin, "bytes": 0.0}
            except BaseException:
                self._weights = previous
                raise

    async def stats(self) -> WorkerStats:
        """How the worker stands."""
        now, past = self._engine.stats if self._engine else EngineStats(), self._past
        return WorkerStats(
            name=self.name,
            version=self._weights[1] if self._weights else self._on_disk,
            running=now.running,
            waiting=now.waiting,
            trajectories=self._trajectories,
            prompt_tokens=past.prompt_tokens + now.prompt_tokens,
            generated_tokens=past.generated_tokens + now.generated_tokens,
            prefix_queries=past.prefix_queries + now.prefix_queries,
            prefix_hits=past.prefix_hits + now.prefix_hits,
            preemptions=past.preemptions + now.preemptions,
            rebuilds=self._rebuilds,
            kv_usage=now.kv_usage,
        )

    async def shutdown(self) -> None:
        """Stop the engine, one that is just being rebuilt too."""
        for task in self._mending:
            task.cancel()
        async with self._changing:
            self._drop_engine()

    # --- episodes --------------------------------------------------------------------------------

    async def _trajectory(self, example: Example, how: Play, trajectory_id: str, images: _GroupImages) -> Trajectory:
        began = time.monotonic()
        for _ in range(self._max_rebuilds + 1):
            policy = _EnginePolicy(self._serving, images, how)
            try:
                trajectory = await run_episode(
                    example,
                    policy=policy,
                    codec=self._codec,
                    search=self._search,
                    limits=_limits_since(how.limits, began),
                    seed=how.seed,
                    trajectory_id=trajectory_id,
                    watch=how.watch,
                )
            except EngineLost as lost:
                if policy.engine is None:
                    raise
                await self._mend(policy.engine, lost, _limits_since(how.limits, began).deadline_s)
                if how.watch is not None:
                    how.watch.restarted(str(lost))
                continue
            policy.check_against(trajectory)
            trajectory.worker = self.name
            self._trajectories += 1
            self._rebuilds_in_a_row = 0
            return trajectory
        raise WorkerBroken(
            f"{self.name}: the engine was lost {self._max_rebuilds + 1} times while trajectory {trajectory_id} ran"
        )

    # --- the engine's life -----------------------------------------------------------------------

    async def _serving(self) -> Engine:
        """The engine; one that is being rebuilt or updated is worth waiting for."""
        async with self._changing:
            return self._running()

    def _running(self) -> Engine:
        if self._engine is None:
            raise WorkerBroken(f"{self.name} has no running engine")
        return self._engine

    async def _mend(self, lost: Engine, reason: EngineLost, patience_s: float) -> None:
        """Have `lost` replaced, and wait for that, at most `patience_s` (0: as long as it takes).

        The replacing is a task of its own: others need it when this trajectory's time or its group ends.
        """
        task = asyncio.create_task(self._replace_once(lost, reason), name=f"{self.name} rebuilds its engine")
        self._mending.add(task)
        task.add_done_callback(self._mended)
        await asyncio.wait({task}, timeout=patience_s or None)
        if task.done() and not task.cancelled():
            task.result()

    def _mended(self, task: asyncio.Task[None]) -> None:
        self._mending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s: its engine was not replaced: %s", self.name, error)  # who waited raises it

    async def _replace_once(self, lost: Engine, reason: EngineLost) -> None:
        """Replace `lost`; the many trajectories that saw it go find it replaced by the first."""
        async with self._changing:
            if self._engine is lost:
                await self._replace(reason)

    async def _replace(self, reason: EngineLost) -> None:
        """Build a fresh engine with the current weights, under the lock.

        Raises:
            WorkerBroken: it did not come up, or was tried `max_rebuilds` times and no trajectory finished in between.
            WeightSyncError: it does not take the weights.
        """
        if self._rebuilds_in_a_row >= self._max_rebuilds:
            self._drop_engine()
            raise WorkerBroken(f"{self.name}: engine lost again after {self._max_rebuilds} rebuilds") from reason
        self._rebuilds += 1
        self._rebuilds_in_a_row += 1
        logger.warning("%s: rebuilding its engine (%s)", self.name, reason)
        try:
            await self._bring_up()
        except (WorkerBroken, WeightSyncError):
            raise
        except Exception as error:  # vLLM's process boundary: whatever kept a fresh engine from coming up
            raise WorkerBroken(f"{self.name}: its engine could not be rebuilt: {error}") from error

    async def _bring_up(self) -> None:
        self._drop_engine()
        engine = self._make_engine()
        try:
            await engine.start(self._on_disk)
            if self._weights is not None:
                await engine.update_weights(*self._weights)
        except EngineLost as error:
            engine.shutdown()
            raise WorkerBroken(f"{self.name}: a fresh engine did not come up: {error}") from error
        except BaseException:
            engine.shutdown()
            raise
        self._engine = engine

    def _drop_engine(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            self._past.add_counts(engine.stats)
            engine.shutdown()


def _limits_since(limits: EpisodeLimits, began: float) -> EpisodeLimits:
    """The limits of an episode whose trajectory began then, perhaps on an engine that is gone."""
    if not limits.deadline_s:
        return limits
    left = limits.deadline_s - (time.monotonic() - began)
    return replace(limits, deadline_s=max(left, _NO_TIME_S))  # 0 would be no deadline


class _GroupImages:
    """The pictures of one group: each is prepared once, in a thread, however many members show it."""

    def __init__(self, load: Callable[[ImageRef], Image]) -> None:
        self._load = load
        self._tasks: dict[ImageRef, asyncio.Task[Image]] = {}

    async def get(self, ref: ImageRef) -> Image:
        """The picture `ref` as the model sees it."""
        task = self._tasks.get(ref)
        if task is None:
            task = self._tasks[ref] = asyncio.create_task(asyncio.to_thread(self._load, ref))
        return await asyncio.shield(task)  # one member's cancellation is not the others'


class _EnginePolicy:
    """`PolicyClient` over the worker's engine for one trajectory: the same `engine` for all of its turns."""

    def __init__(self, serving: Callable[[], Awaitable[Engine]], images: _GroupImages, how: Play) -> None:
        self.engine: Engine | None = None
        self._serving = serving
        self._images = images
        self._how = how
        self._turn = -1
        self._seen: tuple[int, ...] = ()

    async def generate(
        self, short_ids: Sequence[int], images: Sequence[ImageRef], *, max_tokens: int, seed: int
    ) -> Completion:
        """Prepare the images and sample."""
        pictures = [await self._images.get(ref) for ref in images]
        if self.engine is None:
            self.engine = await self._serving()
        self._turn += 1
        completion, prompt_ids = await self.engine.generate(
            short_ids,
            pictures,
            max_tokens=max_tokens,
            seed=seed,
            temperature=self._how.temperature,
            heard=self._heard(self._turn),
        )
        self._seen = prompt_ids + completion.token_ids
        return completion

    def _heard(self, turn: int) -> Callable[[str], None] | None:
        watch = self._how.watch
        return (lambda text: watch.heard(turn, text)) if watch is not None and self._how.streamed else None

    def check_against(self, trajectory: Trajectory) -> None:
        """Hold the record against what the engine saw up to its last token.

        Raises:
            RuntimeError: they differ, so log-probs and trained ids would not belong together.
        """
        recorded = tuple(trajectory.token_ids[: len(self._seen)])
        if recorded == self._seen:
            return
        differing = (i for i, (ours, theirs) in enumerate(zip(recorded, self._seen, strict=False)) if ours != theirs)
        at = next(differing, len(recorded))
        raise RuntimeError(
            f"trajectory {trajectory.id}: the codec's ids and the engine's expanded prompt differ from position {at} "
            f"of {len(self._seen)}; codec and engine must use one image processor and the same pixel limits"
        )


async def _all_or_first_error(calls: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Run all; when one fails, cancel the others, wait for them to be gone, and raise its error."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
