"""What generation gains where no trajectory waits for another's search: four arms on one engine, in one run.

    python benchmarks/rollout.py model=FOLDER [latency=0.3] [sigma=1] [posts=16] [group=8] [repeats=3] [serial=3]
                                 [batches=3] [seed=0] [engine=128] [out=FILE]

`model` is a mini policy that searches: the folder `policy` of any finished run, or of a cold start in `runs/cache` (the
shipped base model does not search). `latency` is the mean of the log-normal seconds a search takes, `sigma` its spread.
The arms: (a) all trajectories take each turn together and searches are asked one after another, as the method's
released code does; (b) the same, searches all at once; (c) this project's rollout worker; (d) this project with a tool
that answers at once. Then (c) and (d) kept full, as asynchronous training keeps them: `batches` times as many posts,
a group begun whenever one ends. `serial` repeats are enough of (a), which is little but the sum of its sleeps.
Always holds: every arm has the same posts, seeds and prompts, and one and the same engine whose caches are emptied
before each arm. The seconds a search takes come from a hash of repeat, post, query and how often the post has asked it
by then: the same numbers in all arms of a repeat, so ratios are taken within a repeat. The order of arms changes from
repeat to repeat. How many texts differ between arms is counted and told.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from actors.placement import Resources, engine_env, process_env
from actors.rollout_worker import RolloutWorker
from actors.vllm_build import EngineConfig
from actors.vllm_engine import VllmEngine
from actors.weight_sync import make_weight_sync
from benchmarks.script import words_or_exit
from benchmarks.tables import markdown, spread
from benchmarks.turn_sync import Gate, GatedPolicy, OneByOne, in_step
from envs.episode import EpisodeLimits, run_episode
from envs.tools.local import LocalSearchTool
from envs.tools.local_index import ensure_local_index
from sake_ray.config import Config, load_config
from sake_ray.data.loading import load_split
from sake_ray.data.miniworld_files import WorldSpec, ensure_world
from sake_ray.interfaces import Codec, SearchClient
from sake_ray.prompts import load_prompts
from sake_ray.seeding import derive_seed
from sake_ray.trajectory import Trajectory
from sake_ray.types import Completion, Example, ImageRef, ImageSearch, Observation, TextSearch

KEYS = ("model", "latency", "sigma", "posts", "group", "repeats", "serial", "batches", "seed", "engine", "out")
SERIAL, PARALLEL, OURS, BOUND = "a serial", "b parallel", "c ours", "d no latency"
FULL, FULL_BOUND = "c kept full", "d kept full"


@dataclass(frozen=True)
class Settings:
    """What is measured; `latency` is a mean in seconds, `batches` how often `posts` come when kept full."""

    model: str
    latency: float = 0.3
    sigma: float = 1.0
    posts: int = 16
    group: int = 8
    repeats: int = 3
    serial: int = 3
    batches: int = 3
    seed: int = 0
    engine: int = 128


class SlowTool:
    """MiniWorld's search tool after a sleep whose log-normal seconds have the mean `mean_s`."""

    def __init__(self, tool: LocalSearchTool, sigma: float) -> None:
        self._tool = tool
        self._sigma = sigma
        self.begin(0.0, 0)

    def begin(self, mean_s: float, seed: int) -> None:
        """Forget what was asked: the same askings take the same seconds again."""
        self._mean_s, self._seed = mean_s, seed
        self._asked: Counter[tuple[str, str]] = Counter()

    def _seconds(self, post: str, query: str) -> float:
        self._asked[post, query] += 1
        uniform = (derive_seed(self._seed, "latency", post, query, self._asked[post, query]) + 0.5) / 2**63
        return self._mean_s * math.exp(self._sigma * NormalDist().inv_cdf(uniform) - self._sigma**2 / 2)

    async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
        """All queries at once; see `SearchClient`."""
        wait = max(self._seconds(example.id, query) for query in action.queries)
        await asyncio.sleep(wait)
        ask = self._tool.search_text if isinstance(action, TextSearch) else self._tool.search_images
        return Observation(action.kind, tuple(await ask(example.id, action.queries)), latency_s=wait)


@dataclass(frozen=True)
class Arm:
    """One run of one arm: seconds, its trajectories' texts by id, and what they were made of."""

    seconds: float
    texts: dict[str, tuple[str, ...]]
    tokens: int
    searches: int
    longest_wait_s: float
    waited_s: float


class Bench:
    """The engine, the tool and the posts of all arms."""

    def __init__(self, settings: Settings, config: Config, folder: Path) -> None:
        from sake_ray.data.codec import ChatCodec

        self.settings = settings
        world = asdict(config.world) | {
            "train_posts": settings.posts * settings.batches,
            "dev_posts": 1,
            "test_posts": 1,
        }
        root = ensure_world(folder / "world", WorldSpec(**world))
        ensure_local_index(root)
        self.posts: Sequence[Example] = load_split(root, "train").examples
        self.tool = SlowTool(LocalSearchTool(root), settings.sigma)
        self.codec: Codec = ChatCodec.from_pretrained(
            settings.model,
            prompts=load_prompts(config.data.task, config.prompts.set, config.prompts.dir),
            min_pixels=config.data.min_pixels,
            max_pixels=config.data.max_pixels,
            max_result_chars=config.search.max_chars,
        )
        self.limits = EpisodeLimits(**asdict(config.episode))
        self._pixels = {"min_pixels": config.data.min_pixels, "max_pixels": config.data.max_pixels}
        self.engine = VllmEngine(
            EngineConfig(
                model=settings.model,
                max_model_len=config.episode.max_tokens,
                max_num_seqs=settings.engine,
                max_images=config.episode.max_images,
                temperature=config.rollout.temperature,
            ),
            make_weight_sync("shm"),
        )
        self.worker = self._worker(self.tool)
        self._params = _weights(settings.model)
        self._version = 0

    async def start(self) -> None:
        """Start the one engine."""
        await self.worker.start(self._params)

    async def run(self, arm: str, repeat: int) -> Arm:
        """One arm from empty caches. New weights, equal to the old, are what empties them."""
        self._version += 1
        await self.worker.update_weights(self._params, self._version)
        latency = 0.0 if arm in (BOUND, FULL_BOUND) else self.settings.latency
        self.tool.begin(latency, derive_seed(self.settings.seed, "repeat", repeat))
        play: Callable[[], Awaitable[list[Trajectory]]] = {
            SERIAL: lambda: self._in_step(OneByOne(self.tool)),
            PARALLEL: lambda: self._in_step(self.tool),
            OURS: lambda: self._free(self.posts[: self.settings.posts]),
            BOUND: lambda: self._free(self.posts[: self.settings.posts]),
            FULL: lambda: self._free(self.posts),
            FULL_BOUND: lambda: self._free(self.posts),
        }[arm]
        begin = time.perf_counter()
        trajectories = await play()
        seconds = time.perf_counter() - begin
        waits = [sum(t.observation.latency_s for t in trajectory.turns if t.observation) for trajectory in trajectories]
        return Arm(
            seconds=seconds,
            texts={t.id: tuple(turn.text for turn in t.turns) for t in trajectories},
            tokens=sum(t.trained_tokens for t in trajectories),
            searches=sum(turn.search_began_s is not None for t in trajectories for turn in t.turns),
            longest_wait_s=max(waits),
            waited_s=sum(waits),
        )

    def _seeds(self, example: Example) -> list[int]:
        return [derive_seed(self.settings.seed, "rollout", example.id, n) for n in range(self.settings.group)]

    def _worker(self, search: SearchClient) -> RolloutWorker:
        return RolloutWorker(
            "rollout-0", lambda: self.engine, self.codec, search, limits=self.limits, load_image=self._load
        )

    def _load(self, ref: ImageRef) -> Any:
        from sake_ray.data.images import processed_image

        return processed_image(ref, **self._pixels)

    async def _free(self, posts: Sequence[Example]) -> list[Trajectory]:
        """The project's worker, with as many groups at once as one batch has."""
        places = asyncio.Semaphore(self.settings.posts)

        async def one(example: Example) -> list[Trajectory]:
            async with places:
                group = await self.worker.rollout_group(example, self._seeds(example), group_id=example.id)
                return group.trajectories

        return [t for group in await asyncio.gather(*map(one, posts)) for t in group]

    async def _in_step(self, search: SearchClient) -> list[Trajectory]:
        """The turn-synchronous design."""
        done: list[Trajectory] = []

        def episode(example: Example, n: int, seed: int, policy: _Policy) -> Callable[[Gate], Awaitable[None]]:
            async def run(gate: Gate) -> None:
                done.append(
                    await run_episode(
                        example,
                        policy=GatedPolicy(policy, gate),
                        codec=self.codec,
                        search=search,
                        limits=self.limits,
                        seed=seed,
                        trajectory_id=f"{example.id}.{n}",
                    )
                )

            return run

        episodes = []
        for example in self.posts[: self.settings.posts]:
            policy = _Policy(self.engine, self._load)
            episodes += [episode(example, n, seed, policy) for n, seed in enumerate(self._seeds(example))]
        await in_step(episodes)
        return done


class _Policy:
    """A `PolicyClient` over the engine; pictures of a group are prepared once, as the project's worker does."""

    def __init__(self, engine: VllmEngine, load: Callable[[ImageRef], Any]) -> None:
        self._engine = engine
        self._load = load
        self._pictures: dict[ImageRef, asyncio.Task[Any]] = {}

    async def generate(
        self, short_ids: Sequence[int], images: Sequence[ImageRef], *, max_tokens: int, seed: int
    ) -> Completion:
        for ref in images:
            if ref not in self._pictures:
                self._pictures[ref] = asyncio.create_task(asyncio.to_thread(self._load, ref))
        pictures = [await self._pictures[ref] for ref in images]
        return (await self._engine.generate(short_ids, pictures, max_tokens=max_tokens, seed=seed))[0]


def _weights(model: str) -> dict[str, Any]:
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(model, dtype=torch.float32)
    return {name: parameter.detach().numpy() for name, parameter in loaded.named_parameters()}


async def measure(settings: Settings, config: Config, folder: Path) -> dict[str, list[Arm]]:
    """All arms, `repeats` times, each repeat beginning with another arm; a warm-up before, which does not count."""
    bench = Bench(settings, config, folder)
    await bench.start()
    try:
        await bench.run(BOUND, 0)
        arms = [SERIAL, PARALLEL, OURS, BOUND, FULL, FULL_BOUND]
        found: dict[str, list[Arm]] = {arm: [] for arm in arms}
        for repeat in range(settings.repeats):
            shift = repeat * 2 % len(arms)
            for arm in arms[shift:] + arms[:shift]:
                if arm == SERIAL and repeat >= settings.serial:
                    continue
                found[arm].append(await bench.run(arm, repeat))
                logging.info("repeat %d, %s: %.2f s", repeat, arm, found[arm][-1].seconds)
    finally:
        await bench.worker.shutdown()
    return found


def differing(found: dict[str, list[Arm]]) -> tuple[int, int]:
    """How many trajectories' texts differ from those of the same id in the first arm's first repeat, of how many."""
    first: dict[str, tuple[str, ...]] = {}
    for runs in found.values():
        for run in runs:
            for id_, texts in run.texts.items():
                first.setdefault(id_, texts)
    compared = [texts == first[id_] for runs in found.values() for run in runs for id_, texts in run.texts.items()]
    return compared.count(False), len(compared)


def table(settings: Settings, found: dict[str, list[Arm]]) -> str:
    """The arms, and what was aimed at, in Markdown."""
    rows = []
    for arm, runs in found.items():
        rows.append(
            [
                arm,
                spread([run.seconds for run in runs]),
                spread([len(run.texts) / run.seconds for run in runs], 1),
                spread([run.tokens / run.seconds for run in runs], 0),
                spread([run.longest_wait_s for run in runs]),
                spread([run.waited_s for run in runs], 1),
            ]
        )
    text = markdown(("arm", "seconds", "trajectories/s", "tokens/s", "longest wait s", "all waits s"), rows)
    other, compared = differing(found)
    searches = [run.searches for runs in (found[OURS], found[FULL]) for run in runs]
    trajectories = [len(run.texts) for runs in (found[OURS], found[FULL]) for run in runs]
    waited = sum(run.waited_s for runs in (found[OURS], found[FULL]) for run in runs)
    mean = waited / max(1, sum(searches))
    each = sum(searches) / sum(trajectories)
    return (
        f"Latency log-normal, mean {settings.latency:g} s, sigma {settings.sigma:g} (drawn: mean {mean:.2f} s); "
        f"seed {settings.seed}; {len(found[OURS][0].texts)} trajectories a batch, {len(found[FULL][0].texts)} kept "
        f"full, {each:.2f} searches each. Texts that differ between arms or repeats: {other} of {compared}.\n\n"
        f"{text}\n{markdown(('trajectories/s', 'measured', 'aimed at'), ratios(found))}"
    )


def ratios(found: dict[str, list[Arm]]) -> list[list[str]]:
    """How much faster one arm is than another, repeat by repeat."""

    def over(arm: str, other: str) -> str:
        pairs = zip(found[arm], found[other], strict=False)  # (a) may have fewer repeats
        return spread([(len(a.texts) / a.seconds) / (len(b.texts) / b.seconds) for a, b in pairs])

    least = [max(d.seconds, c.longest_wait_s) / c.seconds for c, d in zip(found[OURS], found[BOUND], strict=True)]
    return [
        ["c over a", over(OURS, SERIAL), "3"],
        ["c over b", over(OURS, PARALLEL), "1.3"],
        ["c over d", over(OURS, BOUND), "0.85"],
        ["c over what no design can beat (the longer of d and the longest wait)", spread(least), ""],
        ["c over d, both kept full", over(FULL, FULL_BOUND), ""],
        ["c kept full over a", over(FULL, SERIAL), ""],
        ["c kept full over b", over(FULL, PARALLEL), ""],
    ]


def main(arguments: list[str]) -> int:
    """Measure everything; returns the exit status."""
    words = words_or_exit(arguments, KEYS, __doc__, required=("model",))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    os.environ.update({**process_env(Resources()), **engine_env(Resources())})
    out = words.pop("out", "")
    kinds = {"latency": float, "sigma": float, "model": str}
    settings = Settings(**{key: kinds.get(key, int)(value) for key, value in words.items()})
    config = load_config([], job="rl_twitter17")
    with tempfile.TemporaryDirectory(prefix="sake-bench-") as folder:
        found = asyncio.run(measure(settings, config, Path(folder)))
    sys.stdout.write(table(settings, found))
    if out:
        rows = {arm: [asdict(run) | {"texts": len(run.texts)} for run in runs] for arm, runs in found.items()}
        Path(out).write_text(
            json.dumps({"settings": asdict(settings), "arms": rows}, indent=1) + "\n", encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
