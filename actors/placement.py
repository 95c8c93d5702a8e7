"""Where actors run and under which names: Ray's start, resources, environment variables, readable names.

Knows nothing of what the actors do. Always holds: an actor's name is `<role>-<index>`, and everything a
process must find in its environment before its first import is set here, through its runtime
environment, and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

ROLLOUT, LEARNER, SEARCH, REWARD = "rollout", "learner", "search", "reward"

MANY_CALLS = 1000
"""Calls an async actor has open at once: above any number of trajectories one engine serves."""


@dataclass(frozen=True)
class Resources:
    """What one actor takes of its node."""

    cpus: float = 1.0
    gpus: float = 0.0


def actor_name(role: str, index: int) -> str:
    """The name an actor has in the dashboard, the logs and `ray.get_actor`."""
    return f"{role}-{index}"


def is_taken(name: str) -> bool:
    """Whether a live actor has this name. Ray frees a dead one's a moment later."""
    try:
        ray.get_actor(name)
    except ValueError:
        return False
    return True


def actor_options(name: str, resources: Resources, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Options for `.options(**…)` of an async actor that its pool, not Ray, restarts."""
    return {
        "name": name,
        "num_cpus": resources.cpus,
        "num_gpus": resources.gpus,
        "max_concurrency": MANY_CALLS,
        "max_restarts": 0,
        "runtime_env": {"env_vars": {**process_env(resources), **(env or {})}},
    }


def process_env(resources: Resources, threads: int = 1) -> dict[str, str]:
    """Environment variables of any actor's process.

    On a CPU freed buffers stay with the process, because fetching pages anew in every step costs more than the
    arithmetic, and idle threads sleep, because spinning ones take the cores others work on.
    """
    env = {"OMP_NUM_THREADS": str(threads)}
    if resources.gpus == 0:
        env |= {
            "MALLOC_MMAP_THRESHOLD_": "4000000000",
            "MALLOC_TRIM_THRESHOLD_": "8000000000",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
    return env


def engine_env(resources: Resources) -> dict[str, str]:
    """Environment variables of a process that hosts a vLLM engine.

    On a CPU: no compilation (it costs more than it saves), one OpenMP thread that is not bound to a
    core (several engines would be bound to the same one; two spinning threads are many times slower),
    and no third process between the actor and the engine.
    """
    env = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    if resources.gpus == 0:
        env |= {
            "TORCH_COMPILE_DISABLE": "1",
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    return env


def init_ray(
    *,
    num_cpus: int | None = None,
    temp_dir: Path | None = None,
    dashboard: bool = False,
    python_path: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Path | None:
    """Join the cluster this process was submitted to, or start one on this machine.

    Under `ray job submit` (or with RAY_ADDRESS set) the running cluster is used and the arguments but `env` do
    not apply. Otherwise a local one is started with its files in `temp_dir`, or in a new folder that
    is returned for the caller to remove; token authentication stays on, as Ray does it by default.
    `num_cpus` is what Ray believes it has: pass at least what the job's actors take together.
    `python_path` is put on the actors' import path (for a project that is not installed), `env` in the environment of
    all actors.

    Raises:
        RuntimeError: Ray was already started in this process.
    """
    if ray.is_initialized():
        raise RuntimeError("Ray is already running in this process; call init_ray once, first")
    if os.environ.get("RAY_ADDRESS"):
        ray.init(
            address=os.environ["RAY_ADDRESS"], log_to_driver=True, runtime_env={"env_vars": dict(env)} if env else None
        )
        return None
    # Kept short: Ray puts unix sockets under it, whose paths must not pass 107 bytes.
    made = Path(tempfile.mkdtemp(prefix="sr-")) if temp_dir is None else None
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=dashboard,
        _temp_dir=str(made or temp_dir),
        log_to_driver=True,
        runtime_env={"env_vars": {**(env or {}), **({"PYTHONPATH": str(python_path)} if python_path else {})}},
    )
    return made


@contextlib.contextmanager
def joined_ray(
    num_cpus: int, *, python_path: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[None]:
    """`init_ray` until the block ends; a Ray that was started is gone then, with its files."""
    scratch = init_ray(num_cpus=num_cpus, python_path=python_path, env=env)
    try:
        yield
    finally:
        ray.shutdown()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
