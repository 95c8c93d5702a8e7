"""A program for a test: a node is lost in the middle of rollouts, and joins again. Says what happened as JSON.

It has a cluster of its own, because the other tests' must stay whole.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.cluster_utils import Cluster

from actors.actor_state import PLACING, SERVING
from actors.placement import Resources, actor_name, actor_options
from actors.rollout_pool import RolloutPool
from tests.actors.test_rollout_pool import Diary, ScriptedWorker, example
from tests.waiting import until, until_states


async def main(folder: Path) -> dict[str, Any]:
    """A worker on each of two nodes; the second node dies by SIGKILL while both have groups."""
    path = {"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "temp_dir": str(folder)})
    ray.init(address=cluster.address, runtime_env=path, log_to_driver=False)
    second = cluster.add_node(num_cpus=1)
    diary = ray.remote(Diary).options(num_cpus=0, resources={"node:__internal_head__": 0.01}).remote()

    def spawn(index: int) -> Any:
        name = actor_name("rollout", index)
        return ray.remote(ScriptedWorker).options(**actor_options(name, Resources(cpus=1))).remote(name, diary)

    pool = RolloutPool(spawn, 2, resources=Resources(cpus=1))
    await pool.start()
    await pool.update_weights({"w": 1}, 4)
    groups = [asyncio.create_task(pool.rollout(example(f"slow{n}"), seeds=[n])) for n in range(8)]

    async def all_begun() -> bool:
        return len(await diary.read.remote()) == 8

    await until(all_begun)
    second.all_processes[PROCESS_TYPE_RAYLET][0].process.kill()
    begin = time.monotonic()
    answers = [group.example.id for group in await asyncio.gather(*groups)]
    recovered = time.monotonic() - begin
    await until(functools.partial(_one_waits, pool))
    placing = [state.name for state in await pool.states() if state.state == PLACING]
    answers += [group.example.id for group in await asyncio.gather(*(_slow(pool, n) for n in (8, 9)))]

    third = cluster.add_node(num_cpus=1)
    await until_states(pool, [SERVING, SERVING])
    answers += [group.example.id for group in await asyncio.gather(*(_slow(pool, n) for n in range(10, 14)))]
    runs = await diary.read.remote()
    regrown = {worker for group, worker, _ in runs if int(group.split("-")[0].removeprefix("slow")) >= 10}
    await pool.shutdown()
    cluster.remove_node(third)
    ray.shutdown()
    cluster.shutdown()
    return {
        "answers": answers,
        "runs": len(runs),
        "versions": sorted({version for *_, version in runs}),
        "placing": placing,
        "regrown": sorted(regrown),
        "recovered_s": round(recovered, 1),
        "regrown_s": round(time.monotonic() - begin, 1),
    }


async def _one_waits(pool: RolloutPool) -> bool:
    return sorted(state.state for state in await pool.states()) == [PLACING, SERVING]


async def _slow(pool: RolloutPool, number: int) -> Any:
    return await pool.rollout(example(f"slow{number}"), seeds=[number])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(Path(sys.argv[1])))) + "\n")
