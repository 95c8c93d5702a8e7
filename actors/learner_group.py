"""The one object the trainer drives the learner ranks through.

Knows nothing of algorithms or engines: it splits work by tokens, calls every rank in the same order and waits for all.
Always holds: rank i is the actor `learner-<i>`; a call is made on all ranks or on none, one at a time; a rank that is
gone takes the whole group with it (`LearnerLost`, at once: nobody waits for ranks that hang in a collective), and
`restart` makes it anew, for a checkpoint to be loaded; parameters travel from rank 0 through Ray's object store, never
through this process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError

from actors.actor_state import LOST, SERVING, STARTING, ActorState
from actors.learner_rank import LearnerRank
from actors.placement import LEARNER, Resources, actor_name, is_taken, process_env
from sake_ray.config import Config
from sake_ray.data.collate import FloatArray, TrainSample, balanced_shards
from sake_ray.interfaces import LearnerLost
from sake_ray.trajectory import Trajectory

if TYPE_CHECKING:
    from actors.learner import LearnerSettings

log = logging.getLogger(__name__)

START_TIMEOUT_S = 900.0
RESTART_TIMEOUT_S = 24 * 3600.0
"""How long lost ranks wait for room: the cluster may have lost a node and may get another."""
_NAMES_FREE_S = 10.0
_OTHERS_S = 20.0
_LOOK_S = 2.0
_SAY_S = 60.0


class LearnerGroup:
    """`LearnerClient` over n ranks, but for `publish`: hand what `full_params` gives to the weight sync."""

    def __init__(self, settings: LearnerSettings, *, ranks: int = 1, resources: Resources | None = None) -> None:
        """Describe the group; `start` makes it."""
        if ranks < 1:
            raise ValueError(f"learner.ranks={ranks}: at least 1 is needed")
        self.settings = settings
        self.ranks = ranks
        self.resources = resources or Resources()
        self.actors: list[Any] = []
        self._turn = asyncio.Lock()
        self._broken: BaseException | None = None
        self._known: dict[str, ActorState] = {}

    async def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Place the ranks, let them meet and load the model.

        Raises:
            RuntimeError: the cluster had no room for them in time; the message says what they ask for.
        """
        if self.actors:
            raise RuntimeError("the learner group is started already")
        threads = max(1, int(self.resources.cpus))
        remote = ray.remote(concurrency_groups={"health": 1})(LearnerRank)
        # Listed one by one: if one cannot be made, `shutdown` finds those before it.
        for rank in range(self.ranks):
            options = {
                "name": actor_name(LEARNER, rank),
                "num_cpus": self.resources.cpus,
                "num_gpus": self.resources.gpus,
                "max_restarts": 0,
                "runtime_env": {"env_vars": process_env(self.resources, threads)},
            }
            self.actors.append(remote.options(**options).remote(self.settings, rank, self.ranks, threads))
        started = time.perf_counter()
        try:
            address, port = (await asyncio.wait_for(self._placed(), timeout_s))[0]
        except TimeoutError:
            self.shutdown()
            raise RuntimeError(
                f"{self.ranks} learner rank(s) of {self.resources.cpus} CPUs and {self.resources.gpus} GPUs each "
                f"found no room in {timeout_s:.0f} s; the cluster has {ray.available_resources()} free. "
                "Lower learner.ranks, learner.cpus_per_rank or learner.gpus_per_rank, or add nodes"
            ) from None
        await self._on_all("start", address, port)
        log.info("%d learner rank(s) ready in %.1f s", self.ranks, time.perf_counter() - started)

    async def update(self, trajectories: Sequence[Trajectory]) -> dict[str, float]:
        """Train on trajectories with advantages, split over the ranks by tokens; returns `train/…` metrics.

        Raises:
            ValueError: no trajectories, or one without an advantage.
        """
        if not trajectories:
            raise ValueError("an update needs at least one trajectory; a step must not train on an empty batch")
        samples = [TrainSample.of(trajectory) for trajectory in trajectories]
        return await self._train("update", samples)

    async def sft(self, samples: Sequence[TrainSample]) -> dict[str, float]:
        """One supervised step on samples, split over the ranks by tokens; returns `train/…` metrics.

        Raises:
            ValueError: no samples.
        """
        if not samples:
            raise ValueError("a supervised step needs at least one sample")
        return await self._train("sft", samples)

    async def log_probs(self, samples: Sequence[TrainSample], *, reference: bool = False) -> list[FloatArray]:
        """Log-probs of each sample's trained tokens, in the samples' order."""
        shards = self._shards(samples)
        answers = await self._each("log_probs", [([samples[i] for i in shard], reference) for shard in shards])
        found: dict[int, FloatArray] = {}
        for shard, values in zip(shards, answers, strict=True):
            found |= dict(zip(shard, values, strict=True))
        return [found[i] for i in range(len(samples))]

    async def full_params(self) -> Any:
        """A reference to {Hugging Face name: float32 numpy array} in the object store.

        Pass the reference on to an actor; nothing is copied to this process.
        """
        async with self._turn:
            self._check()
            refs = [actor.full_params.remote() for actor in self.actors]
            first = asyncio.to_thread(ray.wait, [refs[0]], fetch_local=False)
            await self._all([asyncio.ensure_future(call) for call in (*refs[1:], first)])
            if not await asyncio.to_thread(_is_alive, self.actors[0]):  # its result would be its death
                raise self._lost(RuntimeError("rank 0 died while it gathered the parameters"))
        return refs[0]

    async def save(self, folder: Path) -> None:
        """Write model and optimiser state into `folder`, which every rank's node must see."""
        await self._on_all("save", folder)

    async def load(self, folder: Path) -> None:
        """Load what `save` wrote, by any number of ranks."""
        await self._on_all("load", folder)

    async def export(self, folder: Path, dtype: str = "float32") -> None:
        """Write a Hugging Face folder that vLLM and transformers load."""
        await self._on_all("export", folder, dtype)

    async def health(self) -> list[dict[str, Any]]:
        """What each rank is doing, also while a step runs."""
        return list(await asyncio.gather(*(actor.health.remote() for actor in self.actors)))

    async def states(self) -> list[ActorState]:
        """Each rank, also while a step runs; one that does not answer soon with what it last said."""
        return list(await asyncio.gather(*(self._state(rank, actor) for rank, actor in enumerate(self.actors))))

    async def _state(self, rank: int, actor: Any) -> ActorState:
        name = actor_name(LEARNER, rank)
        try:
            async with asyncio.timeout(_LOOK_S):
                found = await actor.health.remote()
        except RayActorError:
            return ActorState(name, LOST)
        except TimeoutError:
            return self._known.get(name, ActorState(name, STARTING))
        numbers = {"step": float(found["step"])}
        if "train/tokens_per_s" in found["metrics"]:
            numbers["tokens_per_s"] = found["metrics"]["train/tokens_per_s"]
        state = SERVING if found["step"] >= 0 else STARTING
        self._known[name] = ActorState(name, state, found["node"], numbers)
        return self._known[name]

    async def restart(self, timeout_s: float = RESTART_TIMEOUT_S) -> None:
        """End every rank that is left, and start all anew, with the weights of the model folder: `load` comes next.

        Waits for room in the cluster, and says so.
        """
        await asyncio.to_thread(self.shutdown)
        await self.start(timeout_s)

    def shutdown(self) -> None:
        """End the ranks and wait until their names are free: this group or another can be started then."""
        for actor in self.actors:
            ray.kill(actor, no_restart=True)
        deadline = time.monotonic() + _NAMES_FREE_S
        for rank in range(len(self.actors)):
            while is_taken(actor_name(LEARNER, rank)):
                if time.monotonic() > deadline:
                    log.warning("%s is still ending after %.0f s", actor_name(LEARNER, rank), _NAMES_FREE_S)
                    break
                time.sleep(0.05)
        self.actors, self._broken, self._known = [], None, {}

    async def _train(self, method: str, samples: Sequence[TrainSample]) -> dict[str, float]:
        """Split samples over the ranks by tokens; rank 0's metrics, which are those of all ranks."""
        shards = self._shards(samples)
        answers = await self._each(method, [([samples[i] for i in shard],) for shard in shards])
        return dict(answers[0])

    def _shards(self, samples: Sequence[TrainSample]) -> list[list[int]]:
        return balanced_shards([len(sample.token_ids) for sample in samples], self.ranks)

    async def _on_all(self, method: str, *arguments: Any) -> list[Any]:
        return await self._each(method, [arguments] * self.ranks)

    async def _placed(self) -> list[Any]:
        """Where the ranks are, once all have room; says now and then what is waited for."""
        waiting = asyncio.ensure_future(self._on_all("address"))
        try:
            while not (await asyncio.wait({waiting}, timeout=_SAY_S))[0]:
                log.warning(
                    "%d learner rank(s) wait for room: %g CPUs and %g GPUs each",
                    self.ranks, self.resources.cpus, self.resources.gpus,
                )  # fmt: skip
            return waiting.result()
        finally:
            waiting.cancel()

    async def _each(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a method on every rank, one call of the group at a time; the first rank to fail raises.

        Raises:
            LearnerLost: a rank is gone, and with it the group, until `restart`.
        """
        async with self._turn:
            self._check()
            calls = [getattr(actor, method).remote(*args) for actor, args in zip(self.actors, arguments, strict=True)]
            return await self._all([asyncio.ensure_future(call) for call in calls])

    def _check(self) -> None:
        if not self.actors:
            raise RuntimeError("the learner group has not been started, or was shut down")
        if self._broken is not None:
            raise self._lost(self._broken)

    async def _all(self, calls: Sequence[asyncio.Future[Any]]) -> list[Any]:
        """The results of a call on every rank; when one fails, the others get a moment, not a collective's time."""
        try:
            done, pending = await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION)
            error = next((e for call in done if (e := call.exception()) is not None), None)
            if error is not None and not isinstance(error, RayActorError) and pending:
                done, pending = await asyncio.wait(calls, timeout=_OTHERS_S)
            lost = next((e for call in done if isinstance(e := call.exception(), RayActorError)), None)
            if lost is not None:
                raise self._lost(lost) from lost
            if error is not None:
                if pending:  # they hang in a collective that will not end
                    self._broken = error
                raise error
            return [call.result() for call in calls]
        finally:
            for call in calls:
                call.cancel()

    def _lost(self, error: BaseException) -> LearnerLost:
        self._broken = error
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return LearnerLost(f"a learner rank is gone: {lines[0]}")


def _is_alive(actor: Any) -> bool:
    try:
        ray.get(actor.health.remote(), timeout=60.0)
    except RayActorError:
        return False
    return True


def learner_settings(config: Config, model: Path, reference: Path | None = None) -> LearnerSettings:
    """What the learner needs of a job's configuration; `model` and `reference` are folders."""
    from actors.learner import LearnerSettings

    return LearnerSettings(
        model=model,
        learner=config.learner,
        algorithm=config.algorithm,
        dtype=config.model.dtype,
        min_pixels=config.data.min_pixels,
        max_pixels=config.data.max_pixels,
        temperature=config.rollout.temperature,
        reference=reference,
        device="cuda" if config.learner.gpus_per_rank > 0 else "cpu",
    )


def make_learner_group(config: Config, model: Path, reference: Path | None = None) -> LearnerGroup:
    """The group a configuration describes; `start` it before use."""
    return LearnerGroup(
        learner_settings(config, model, reference),
        ranks=config.learner.ranks,
        resources=Resources(config.learner.cpus_per_rank, config.learner.gpus_per_rank),
    )
