"""What this project itself takes beside engine and tool: CPU time a turn, memory a trajectory, and how the pool scales.

    python benchmarks/overhead.py [flights=64,512,4096] [repeats=5] [workers=1,2,4,8,16,32] [profile=0] [out=FILE]

The engine is a fake that returns a search and then an answer after a fixed sleep. (1) A rollout worker with the real
codec, prompts, parsing and pictures plays many MiniWorld episodes at once in this process: processor seconds a turn, of
all its threads, less what the fake itself took. (2) The memory Python holds for each trajectory while all wait in their
last turn. (3) The real rollout pool over Ray actors, each a rollout worker on a fake engine: groups a second, and the
driver's own processor time a group. `profile=1` prints where the time of the largest flight went instead.
Figures are of this machine and this run: look at how they change with size. Always holds: every trajectory has two
turns and ends with an answer, or the run stops.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import io
import json
import logging
import os
import pstats
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
import ray

from actors.placement import Resources, actor_options
from actors.rollout_pool import RolloutPool
from actors.rollout_stats import EngineStats
from actors.rollout_worker import RolloutWorker
from benchmarks.script import own_ray, words_or_exit
from benchmarks.tables import markdown, spread
from envs.episode import EpisodeLimits
from sake_ray.config import Config, load_config
from sake_ray.data.loading import load_split
from sake_ray.data.miniworld_files import WorldSpec, ensure_world
from sake_ray.interfaces import Codec
from sake_ray.prompts import load_prompts
from sake_ray.trajectory import Segment, TrajectoryGroup
from sake_ray.types import (
    Completion,
    Example,
    ImageRef,
    ImageSearch,
    Observation,
    QueryResult,
    StopReason,
    TextSearch,
)

KEYS = ("flights", "repeats", "workers", "profile", "out")
GROUP = 8
POSTS = 64
SEARCH = '<reason>A name I do not know.</reason><text_search>[{"query": "Kora Belmont"}]</text_search>'
ANSWER = (
    "<reason>The result says what it is.</reason><answer>"
    '[{"entity": "Kora Belmont", "type": "PER", "box2d": [28, 28, 56, 56]}]</answer>'
)
RESULT = "Kora Belmont is a singer; she looks like a red circle."
PICTURE_PADS = 9
"""Image tokens of a MiniWorld picture (84 × 84 pixels)."""


class FakeEngine:
    """Returns a search to a first turn and an answer to a second, after `seconds`; counts what it takes itself."""

    def __init__(self, pad: int, ids: Mapping[str, tuple[int, ...]], seconds: float) -> None:
        self.stats = EngineStats()
        self.waiting = 0
        self.own_s = 0.0
        self.answers = asyncio.Event()  # cleared: last turns wait until it is set
        self.answers.set()
        self._pad, self._seconds = pad, seconds
        self._made = {text: Completion(tokens, (-0.5,) * len(tokens), text, "stop", 0) for text, tokens in ids.items()}

    async def start(self, version: int = 0) -> None:
        """Nothing to start."""

    async def generate(
        self, short_ids: Sequence[int], images: Sequence[Any], *, max_tokens: int, seed: int, **_: Any
    ) -> tuple[Completion, tuple[int, ...]]:
        """See `actors.rollout_worker.Engine`."""
        last = len(images) > 1
        await asyncio.sleep(self._seconds)
        if last:
            self.waiting += 1
            await self.answers.wait()
            self.waiting -= 1
        begin = time.perf_counter()
        expanded: list[int] = []
        for token in short_ids:
            expanded.extend([token] * PICTURE_PADS if token == self._pad else [token])
        completion = self._made[ANSWER if last else SEARCH]
        self.own_s += time.perf_counter() - begin
        return completion, tuple(expanded)

    async def update_weights(self, params: Any, version: int) -> Mapping[str, float]:
        """Nothing to update."""
        return {"pause_s": 0.0, "load_s": 0.0, "bytes": 0.0}

    def shutdown(self) -> None:
        """Nothing to stop."""


class FakeSearch:
    """Answers at once."""

    async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
        """See `SearchClient`."""
        return Observation(action.kind, tuple(QueryResult(query, "success", RESULT) for query in action.queries))


class TableCodec:
    """A codec without a tokenizer, as long as the real one's texts: for actors that must not load transformers."""

    PAD = 1

    def prompt(self, example: Example) -> Segment:
        """See `Codec`."""
        return self._segment(40, example.image)

    def observation(self, example: Example, observation: Observation, *, after_ids: Sequence[int]) -> Segment:
        """See `Codec`."""
        return self._segment(60, example.image)

    def _segment(self, length: int, image: ImageRef) -> Segment:
        text = tuple(range(2, 2 + length))
        return Segment((self.PAD, *text), (self.PAD,) * PICTURE_PADS + text, (image,))


class FakeRolloutActor(RolloutWorker):
    """A rollout worker on a fake engine, as a Ray actor."""

    def __init__(self, name: str, seconds: float, post: ImageRef) -> None:
        ids = {text: tuple(range(100, 140)) for text in (SEARCH, ANSWER)}
        super().__init__(
            name,
            lambda: FakeEngine(TableCodec.PAD, ids, seconds),
            TableCodec(),
            FakeSearch(),
            limits=EpisodeLimits(),
            load_image=lambda ref: ref,  # type: ignore[arg-type,return-value]
        )


class Bench:
    """A rollout worker in this process, and its posts."""

    def __init__(self, config: Config, folder: Path) -> None:
        from sake_ray.data.codec import ChatCodec

        small = {"train_posts": POSTS, "dev_posts": 1, "test_posts": 1}
        root = ensure_world(folder / "world", WorldSpec(**asdict(config.world) | small))
        self.posts: Sequence[Example] = load_split(root, "train").examples
        base = Path(__file__).resolve().parents[1] / "sake_ray" / "assets" / "mini_base"
        pixels = {"min_pixels": config.data.min_pixels, "max_pixels": config.data.max_pixels}
        codec = ChatCodec.from_pretrained(
            str(base), prompts=load_prompts(config.data.task, config.prompts.set, config.prompts.dir), **pixels
        )
        encode = codec.tokenizer.encode
        ids = {text: tuple(encode(text, add_special_tokens=False)) for text in (SEARCH, ANSWER)}
        self.engine = FakeEngine(codec.image_pad_id, ids, 0.2)
        self.codec: Codec = codec

        def load(ref: ImageRef) -> Any:
            from sake_ray.data.images import processed_image

            return processed_image(ref, **pixels)

        self.worker = RolloutWorker(
            "rollout-0", lambda: self.engine, codec, FakeSearch(), limits=EpisodeLimits(), load_image=load
        )

    async def fly(self, flight: int) -> list[TrajectoryGroup]:
        """`flight` trajectories at once, in groups."""
        posts = [self.posts[n % len(self.posts)] for n in range(max(1, flight // GROUP))]
        calls = [
            self.worker.rollout_group(post, range(min(GROUP, flight)), group_id=str(n)) for n, post in enumerate(posts)
        ]
        groups = await asyncio.gather(*calls)
        check(groups)
        return groups

    async def seconds_a_turn(self, flight: int) -> float:
        """Processor seconds of all threads a turn, the fake's own left out."""
        gc.collect()
        own, begin = self.engine.own_s, time.process_time()
        groups = await self.fly(flight)
        used = time.process_time() - begin - (self.engine.own_s - own)
        return used / sum(len(t.turns) for group in groups for t in group.trajectories)

    async def bytes_a_trajectory(self, flight: int) -> float:
        """What Python holds for each trajectory while all wait in their last turn: record, task, frames, prompt."""
        gc.collect()
        tracemalloc.start()
        self.engine.answers.clear()
        before, _ = tracemalloc.get_traced_memory()
        flying = asyncio.create_task(self.fly(flight))
        while self.engine.waiting < flight:
            await asyncio.sleep(0.05)
            if flying.done():
                flying.result()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        self.engine.answers.set()
        await flying
        return held / flight


def check(groups: Sequence[TrajectoryGroup]) -> None:
    """Every trajectory searched and answered.

    Raises:
        RuntimeError: one did not.
    """
    for trajectory in (t for group in groups for t in group.trajectories):
        if len(trajectory.turns) != 2 or trajectory.stop_reason is not StopReason.ANSWER:
            raise RuntimeError(
                f"{trajectory.id} ended with {trajectory.stop_reason} after {len(trajectory.turns)} turns"
            )


async def measure_worker(bench: Bench, flights: Sequence[int], repeats: int) -> dict[int, dict[str, list[float]]]:
    """CPU time and memory for each size of flight; repeats go round the sizes."""
    await bench.worker.start()
    await bench.fly(512)
    found: dict[int, dict[str, list[float]]] = {flight: {"ms": [], "kib": []} for flight in flights}
    for _ in range(repeats):
        for flight in flights:
            found[flight]["ms"].append(await bench.seconds_a_turn(flight) * 1e3)
    for flight in flights:
        found[flight]["kib"].append(await bench.bytes_a_trajectory(flight) / 1024)
    return found


async def measure_pool(posts: Sequence[Example], workers: int, repeats: int) -> dict[str, list[float]]:
    """Groups a second through the real pool, four under way for each worker; a turn takes its engine half a second."""
    seconds, under_way, rounds = 0.5, 4, 4

    def spawn(index: int) -> Any:
        name = f"rollout-{index}"
        options = actor_options(name, Resources(cpus=0))
        return ray.remote(FakeRolloutActor).options(**options).remote(name, seconds, posts[0].image)

    pool = RolloutPool(spawn, workers)
    await pool.start()
    found: dict[str, list[float]] = {"groups_s": [], "driver_ms": [], "share": []}
    try:
        for repeat in range(repeats + 1):
            places = asyncio.Semaphore(workers * under_way)

            async def one(n: int, places: asyncio.Semaphore = places) -> TrajectoryGroup:
                async with places:
                    return await pool.rollout(posts[n % len(posts)], seeds=range(n * GROUP, (n + 1) * GROUP))

            count = workers * under_way * rounds
            begin, own = time.perf_counter(), time.process_time()
            check(await asyncio.gather(*map(one, range(count))))
            took, used = time.perf_counter() - begin, time.process_time() - own
            if repeat:  # the first is a warm-up
                found["groups_s"].append(count / took)
                found["driver_ms"].append(used / count * 1e3)
                found["share"].append(count / took / (workers * under_way / (2 * seconds)))
    finally:
        await pool.shutdown()
    return found


async def driver_memory(posts: Sequence[Example], flight: int) -> float:
    """KiB the driver's process grows by for each trajectory in flight, nothing of it done."""
    options = actor_options("rollout-0", Resources(cpus=0))
    pool = RolloutPool(
        lambda index: ray.remote(FakeRolloutActor).options(**options).remote("rollout-0", 3.0, posts[0].image), 1
    )
    await pool.start()
    process = psutil.Process()
    groups = flight // GROUP
    try:
        await asyncio.gather(*(pool.rollout(posts[0], seeds=range(GROUP)) for _ in range(8)))
        gc.collect()
        before = process.memory_info().rss
        seeds = [range(n * GROUP, (n + 1) * GROUP) for n in range(groups)]
        tasks = [asyncio.create_task(pool.rollout(posts[n % len(posts)], seeds=seeds[n])) for n in range(groups)]
        await asyncio.sleep(2.0)
        held = process.memory_info().rss - before
        check(await asyncio.gather(*tasks))
    finally:
        await pool.shutdown()
    return held / flight / 1024


async def measure(config: Config, folder: Path, words: Mapping[str, str]) -> dict[str, Any]:
    """Everything, as far as it was asked for."""
    bench = Bench(config, folder)
    flights = _numbers(words.get("flights", "64,512,4096"))
    repeats = int(words.get("repeats", "5"))
    if words.get("profile", "0") == "1":
        await bench.worker.start()
        await bench.fly(512)
        profile = cProfile.Profile()
        profile.enable()
        await bench.fly(max(flights))
        profile.disable()
        text = io.StringIO()
        pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(25)
        return {"profile": text.getvalue()}
    report: dict[str, Any] = {"worker": await measure_worker(bench, flights, repeats), "pool": {}}
    report["driver_kib"] = {flight: await driver_memory(bench.posts, flight) for flight in flights[-2:]}
    for workers in _numbers(words.get("workers", "1,2,4,8,16,32")):
        report["pool"][workers] = await measure_pool(bench.posts, workers, min(repeats, 3))
        logging.info("%d workers: %.1f groups/s", workers, report["pool"][workers]["groups_s"][-1])
    return report


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def table(report: Mapping[str, Any]) -> str:
    """The report in Markdown."""
    worker = [
        [
            f"{flight:,}",
            spread(found["ms"], 3),
            spread([2 * ms for ms in found["ms"]], 3),
            spread(found["kib"], 1),
            f"{report['driver_kib'][flight]:.1f}" if flight in report["driver_kib"] else "",
        ]
        for flight, found in report["worker"].items()
    ]
    pool = [
        [str(workers), spread(found["groups_s"], 1), spread(found["share"]), spread(found["driver_ms"])]
        for workers, found in report["pool"].items()
    ]
    header = (
        "in flight",
        "CPU ms a turn",
        "CPU ms a trajectory",
        "KiB a trajectory, worker",
        "KiB a trajectory, driver",
    )
    return f"{markdown(header, worker)}\n" + markdown(
        ("fake workers", "groups/s", "of what the fakes allow", "driver's CPU ms a group"), pool
    )


def main(arguments: list[str]) -> int:
    """Measure everything; returns the exit status."""
    words = words_or_exit(arguments, KEYS, __doc__)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    os.environ["OMP_NUM_THREADS"] = "1"
    with own_ray(40), tempfile.TemporaryDirectory(prefix="sake-bench-") as folder:
        report = asyncio.run(measure(load_config([], job="rl_twitter17"), Path(folder), words))
    sys.stdout.write(report["profile"] if "profile" in report else table(report))
    if words.get("out"):
        Path(words["out"]).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
