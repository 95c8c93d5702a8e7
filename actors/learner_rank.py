"""One learner rank as a Ray actor.

Knows nothing of the other ranks but how many there are. Always holds: it answers `health` while a step runs; torch is
imported, and the model loaded, in its own process and not before `start`.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from actors.placement import LEARNER, actor_name
from sake_ray.data.collate import FloatArray, TrainSample

if TYPE_CHECKING:
    from actors.learner import Learner, LearnerSettings


class LearnerRank:
    """One rank; a plain class that `LearnerGroup` makes an actor. Nothing is loaded before `start`."""

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
        node = ray.get_runtime_context().get_node_id()
        return {
            "name": self.name,
            "step": step,
            "busy": self._busy,
            "metrics": self._last,
            "node": node,
            "pid": os.getpid(),
        }

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
