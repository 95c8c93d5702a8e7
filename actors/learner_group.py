"""The learner ranks as Ray actors, and the one object the trainer drives them through.

Knows nothing of algorithms or engines: it splits work by tokens, calls every rank in the same order and
waits for all. Always holds: rank i is the actor `learner-<i>`; a call is made on all ranks or on none,
one at a time; parameters travel from rank 0 through Ray's object store, never through this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from actors.placement import LEARNER, Resources, actor_name, is_taken, process_env
from sake_ray.config import Config
from sake_ray.data.collate import FloatArray, TrainSample, balanced_shards
from sake_ray.trajectory import Trajectory

if TYPE_CHECKING:
    from actors.learner import Learner, LearnerSettings

log = logging.getLogger(__name__)

START_TIMEOUT_S = 900.0
_NAMES_FREE_S = 10.0


class LearnerRank:
    """One rank; a plain class that the group makes an actor. Nothing is loaded before `start`."""

    def __init__(self, settings: LearnerSettings, rank: int, ranks: int, threads: int) -> None:
        self.name = actor_name(LEARNER, rank)
        self._settings, self._rank, self._ranks, self._threads = settings, rank, ranks, threads
        self._learner: Learner | None = None
        self._busy = ""
        self._last: dict[str, float] = {}

    def __repr__(self) -> str:
        return self.name

    def address(self) -> tuple[str, int]:
        """This node's address and a port that is free on it, for the ranks to meet at."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), int(probe.getsockname()[1])

    def start(self, address: str, port: int) -> None:
        """Join the process group and load the model; a collective like everything below."""
        import torch

        from actors.learner import Learner, start_process_group

        torch.set_num_threads(self._threads)
        start_process_group(self._rank, self._ranks, address, port, device=self._settings.device)
        self._learner = Learner(self._settings)
        from ray.util.metrics import Gauge

        self._gauges = {
            name: Gauge(f"sake_ray_learner_{name}", description=text, tag_keys=("actor",))
            for name, text in (
                ("step", "optimiser steps taken"),
                ("tokens_per_s", "trained tokens a second, all ranks"),
            )
        }

    def update(self, samples: list[TrainSample]) -> dict[str, float]:
        """See `Learner.update`."""
        with self._doing("update"):
            metrics = self._ready.update(samples)
        return self._reported(metrics)

    def sft(self, samples: list[TrainSample]) -> dict[str, float]:
        """See `Learner.sft_step`."""
        with self._doing("sft"):
            metrics = self._ready.sft_step(samples)
        return self._reported(metrics)

    def log_probs(self, samples: list[TrainSample], reference: bool) -> list[FloatArray]:
        """See `Learner.log_probs`."""
        with self._doing("log_probs"):
            return self._ready.log_probs(samples, reference=reference)

    def full_params(self) -> dict[str, Any]:
        """Name → float32 numpy array on rank 0, which Ray keeps in the object store; empty elsewhere."""
        with self._doing("full_params"):
            return {name: tensor.numpy() for name, tensor in self._ready.full_params().items()}

    def save(self, folder: Path) -> None:
        """See `Learner.save`."""
        with self._doing("save"):
            self._ready.save(folder)

    def load(self, folder: Path) -> None:
        """See `Learner.load`."""
        with self._doing("load"):
            self._ready.load(folder)

    def export(self, folder: Path, dtype: str) -> None:
        """See `Learner.export`."""
        with self._doing("export"):
            self._ready.export(folder, dtype)

    @ray.method(concurrency_group="health")
    def health(self) -> dict[str, Any]:
        """What the rank is doing; answers while a step runs."""
        step = self._learner.step if self._learner else -1
        return {"name": self.name, "step": step, "busy": self._busy, "metrics": self._last}

    def _reported(self, metrics: dict[str, float]) -> dict[str, float]:
        self._last = metrics
        self._gauges["step"].set(self._ready.step, {"actor": self.name})
        self._gauges["tokens_per_s"].set(metrics["train/tokens_per_s"], {"actor": self.name})
        return metrics

    @contextlib.contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        self._busy = what
        try:
            yield
        finally:
            self._busy = ""

    @property
    def _ready(self) -> Learner:
        if self._learner is None:
            raise RuntimeError(f"{self.name} has not been started; LearnerGroup.start does that")
        return self._learner


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
            address, port = (await asyncio.wait_for(self._on_all("address"), timeout_s))[0]
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
            refs = [actor.full_params.remote() for actor in self.actors]
            await asyncio.gather(*refs[1:])
            await asyncio.to_thread(ray.wait, [refs[0]], fetch_local=False)
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
        self.actors = []

    async def _train(self, method: str, samples: Sequence[TrainSample]) -> dict[str, float]:
        """Split samples over the ranks by tokens; rank 0's metrics, which are those of all ranks."""
        shards = self._shards(samples)
        answers = await self._each(method, [([samples[i] for i in shard],) for shard in shards])
        return dict(answers[0])

    def _shards(self, samples: Sequence[TrainSample]) -> list[list[int]]:
        return balanced_shards([len(sample.token_ids) for sample in samples], self.ranks)

    async def _on_all(self, method: str, *arguments: Any) -> list[Any]:
        return await self._each(method, [arguments] * self.ranks)

    async def _each(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a method on every rank, one call of the group at a time; the first rank to fail raises."""
        if not self.actors:
            raise RuntimeError("the learner group has not been started, or was shut down")
        async with self._turn:
            calls: list[Awaitable[Any]] = [
                getattr(actor, method).remote(*args) for actor, args in zip(self.actors, arguments, strict=True)
            ]
            return list(await asyncio.gather(*calls))


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
